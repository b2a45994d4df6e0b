"""Targets are the classes that were asked for, and images are driven there."""

import pytest
import torch

from lightning_gradood.attacks import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, IterLL
from lightning_gradood.attacks.goals import TargetChoice
from lightning_gradood.core import Perturbation, Refusal

from .conftest import Digits
from .examples import MOMENTUM

TARGETED: dict[str, type[Perturbation]] = {"fgsm": FGSM, "bim": BIM, "pgd": PGD, "cw": CarliniWagner}


@pytest.mark.parametrize("name", TARGETED)
def test_targets_are_what_was_asked_for(name: str, digits: Digits) -> None:
    network, images, labels = digits.network, digits.images[:30], digits.labels[:30]
    brief = {"steps": 2} if name == "cw" else {}
    least = TARGETED[name](targeted="least_likely", **brief).craft(network, images, labels).targets
    after = TARGETED[name](targeted="next", **brief).craft(network, images, labels).targets
    drawn = TARGETED[name](targeted="random", **brief).craft(network, images, labels).targets
    assert least is not None
    assert after is not None
    assert drawn is not None
    assert torch.equal(least, network(images).argmin(1))
    assert torch.equal(after, (labels + 1) % 10)
    assert bool((drawn != labels).all())
    assert bool(((drawn >= 0) & (drawn < 10)).all())
    assert len(set(((drawn - labels) % 10).tolist())) > 5
    assert TARGETED[name](**brief).craft(network, images, labels).targets is None


@pytest.mark.parametrize(
    "attack",
    [
        BIM(eps=0.1, steps=20, targeted="next"),
        PGD(eps=0.1, steps=20, targeted="random"),
        CarliniWagner(targeted="next"),
        IterLL(eps=0.1, step=0.01, steps=20),
        AdvertorchAttack(MOMENTUM, {"eps": 0.1, "nb_iter": 20}, targeted="next"),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_images_reach_their_targets(attack: Perturbation, digits: Digits) -> None:
    found = attack.perturb(digits.network, digits.images[:30], digits.labels[:30])
    assert found.target_hit is not None
    assert float(found.target_hit.float().mean()) > 0.6
    assert bool(found.success[found.target_hit].all())


@pytest.mark.parametrize(
    ("name", "targeted", "words"),
    [
        ("LinfFABAttack", "next", "LinfFABAttack can be: left out. Got `targeted = 'next'`"),
        ("JacobianSaliencyMapAttack", None, "JacobianSaliencyMapAttack can be: given. Got `targeted = None`"),
    ],
)
def test_classes_that_have_no_choice_of_targets_say_so(name: str, targeted: TargetChoice | None, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        AdvertorchAttack(f"advertorch.attacks.{name}", targeted=targeted)


def test_targets_are_not_given_among_the_settings() -> None:
    with pytest.raises(Refusal, match="`targeted` should be beside `settings`"):
        AdvertorchAttack(MOMENTUM, {"targeted": True})


def test_the_saliency_map_attack_is_driven_to_its_target(digits: Digits) -> None:
    attack = AdvertorchAttack("advertorch.attacks.JacobianSaliencyMapAttack", {"gamma": 0.5}, targeted="next")
    found = attack.perturb(digits.network, digits.images[:4], digits.labels[:4])
    assert found.target_hit is not None
    assert bool(found.target_hit.any())
