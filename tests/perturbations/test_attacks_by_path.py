"""Attacks by import path: any class of advertorch, any function; what is refused, and what stays as it was then."""

import itertools
import sys
from functools import partial

import pytest
import torch
from advertorch.attacks import MomentumIterativeAttack
from asserts import assert_refused, random_states, state_of
from torch import nn

from lightning_gradood.perturbations import (
    BIM,
    FGSM,
    PGD,
    AdvertorchAttack,
    CarliniWagner,
    FunctionAttack,
    IterLL,
    Semantic,
)
from lightning_gradood.perturbations.advertorch_parts import advertorch

from .conftest import ATTACKS, MOMENTUM, by_path

GRADIENT_ATTACKS = [FGSM(), BIM(), PGD(), CarliniWagner(steps=2), IterLL(), AdvertorchAttack(MOMENTUM)]
ours = partial(partial, AdvertorchAttack)


def test_advertorch_is_given_network_settings_and_labels(digits):
    batch = digits.images, digits.labels
    found = ATTACKS["advertorch/momentum"].craft(digits.network, *batch)
    direct = MomentumIterativeAttack(digits.network.requires_grad_(False), eps=0.03, nb_iter=5).perturb(*batch)
    digits.network.requires_grad_(True)
    assert torch.equal(found.images, direct)
    assert not hasattr(sys.modules["torch.autograd.gradcheck"], "zero_gradients")  # the mended import left nothing


@pytest.mark.filterwarnings("ignore")  # advertorch's own, about schedulers and SciPy's optimiser
def test_other_classes_of_advertorch_work(digits):
    """Integers for eps are taken, the number of classes is filled in, and random draws are of no consequence."""
    for name, settings in {
        "CarliniWagnerL2Attack": {"max_iterations": 40, "binary_search_steps": 1, "initial_const": 1.0},
        "DDNL2Attack": {"nb_iter": 5},
        "L2PGDAttack": {"eps": 1, "nb_iter": 3, "rand_init": False},
        "LBFGSAttack": {"binary_search_steps": 1, "max_iterations": 3},
        "LinfFABAttack": {"n_restarts": 1, "n_iter": 2, "eps": 0.1},
        "SinglePixelAttack": {"max_pixels": 3},
    }.items():
        attack = AdvertorchAttack(f"advertorch.attacks.{name}", settings, one_at_a_time=True)
        assert float(attack.perturb(digits.network, digits.images[:3], digits.labels[:3]).l2.max()) > 0, name


def test_a_function_is_given_everything_and_spoils_nothing(digits, monkeypatch):
    seen, before = [], digits.images.clone()

    def spy(network, images, labels):
        gradients_of = [parameter.requires_grad for parameter in network.parameters()]
        seen.append((network, network.training, any(gradients_of), labels.tolist(), torch.is_grad_enabled()))
        return images / 2

    monkeypatch.setattr(by_path("darker"), spy)
    with torch.no_grad():
        FunctionAttack(by_path("darker")).craft(digits.network, digits.images[:3], digits.labels[:3])
    assert seen == [(digits.network, False, False, digits.labels[:3].tolist(), True)]
    crafted = FunctionAttack(by_path("overwriting")).craft(*digits)
    assert torch.equal(digits.images, before)
    assert torch.equal(crafted.images, before / 2)


def test_settings_without_meaning_are_refused():
    eps = "`eps` should be above 0 and at most 1, as pixels are in [0, 1]. Got `eps = {}`"
    values = itertools.product((FGSM, BIM, PGD, IterLL), (0.0, 1.5, 8, float("nan")))
    plain = [{"targeted": True}, {"epsilon": 1}, {"loss_fn": nn}]
    classes = ["advertorch.attacks.Nothing", "torch.nn.Linear", "no_such_package.Attack", "..", "print"]
    functions = ["no_such_package.function", by_path("nothing"), by_path("not_callable"), "", "a b"]
    assert_refused(
        *((partial(kind, eps=value), eps.format(value)) for kind, value in values),
        (ours("advertorch.attacks.LinfFABAttack", targeted="next"), "can be: left out. Got `targeted = 'next'`"),
        (ours("advertorch.attacks.JacobianSaliencyMapAttack"), "Attack can be: given. Got `targeted = None`"),
        *((ours(MOMENTUM, one), "`settings` should be") for one in plain),
        *((ours(one), "`attack` should be the import path of an attack class of advertorch") for one in classes),
        *((partial(FunctionAttack, one), "`function` should be the import path of a function of") for one in functions),
    )
    assert FGSM(eps=1.0).eps == 1.0


class Around(nn.Module):
    """What a function makes of a network and its images."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, images):
        return self.function(self.network, images)


def test_what_cannot_be_attacked_and_what_an_attack_should_not_do_is_refused(digits):
    state, settings = torch.get_rng_state(), {"eps": 0.03, "nb_iter": 2}
    batch = network, images, labels = digits.network, digits.images, digits.labels
    grey = torch.zeros(3, 1, 8, 8)
    given = [
        (grey.byte(), "torch.uint8. Convert 8-bit pixels with `images"),
        (grey + 255, "`images` should be pixels in [0, 1]. Got values from 255 to 255. Divide"),
        (grey + float("nan"), "Got values from nan to nan"),
    ]
    detached = Around(network, lambda network, images: network(images.detach()))  # autograd cannot follow to the input
    outputs = [lambda images, shape=shape: torch.zeros(shape) * images.sum() for shape in ([3], [3, 1], [2, 10])]
    shaped = [Around(network, lambda _, images, output=output: output(images)) for output in outputs]
    logits = "the network's output should be logits [N, classes], a row for each image"
    mine = lambda name, **more: FunctionAttack(by_path(name), **more)  # noqa: E731
    random, pixels = "`one_at_a_time` should be true for an attack that draws random numbers", "return pixels in [0, 1]"
    cases = [
        (AdvertorchAttack("advertorch.attacks.LinfPGDAttack", settings), random),
        (mine("noisy"), random),
        (mine("darker", eps=0.01), "at most `eps = 0.01` from those it is given.* up to 0.02"),
        (AdvertorchAttack(MOMENTUM, settings, eps=0.01), "at most `eps = 0"),
        (mine("too_bright"), f"FunctionAttack should {pixels}. Got values from 1 to"),
        (mine("undefined"), f"{pixels}. Got values from nan"),
        (mine("cropped"), "for each that it is given, [100, 1, 8, 8]. Got [100, 1, 8, 7], torch.float32"),
        (mine("wordy"), "Got str. Return them"),
        (mine("cropped", one_at_a_time=True), "The attack should return an image"),
    ]
    three, cut_off = (images[:3], labels[:3]), "on its input through autograd"
    assert_refused(
        *((partial(FGSM().craft, network, one, labels[:3]), words) for one, words in given),
        *((partial(one.craft, detached, *three), cut_off) for one in GRADIENT_ATTACKS),
        *((partial(FGSM().craft, one, images[:3], [label] * 3), logits) for one in shaped for label in (0, -1)),
        *((partial(attack.craft, *batch), words) for attack, words in cases),
    )
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS[1:], ids=lambda attack: type(attack).__name__)
def test_everything_is_restored_when_the_network_raises(attack, digits):
    passes = []

    def failing(network, images):
        passes.append(len(images))
        if len(passes) == 2:
            raise RuntimeError("out of memory, or some such thing")
        return network(images)

    network = Around(digits.network, failing).train()
    next(network.parameters()).requires_grad_(False)
    images = digits.images.clone()
    try:
        with torch.inference_mode():
            before = state_of(network), random_states()
            with pytest.raises(RuntimeError, match="some such thing"):
                attack.craft(network, images, digits.labels)
            assert (state_of(network), random_states()) == before
        assert torch.equal(images, digits.images)
    finally:
        digits.network.eval().requires_grad_(True)


def test_without_advertorch_only_the_attacks_that_need_it_are_refused(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "advertorch.attacks", None)
    advertorch.cache_clear()
    try:
        words = "FGSM, BIM, PGD, IterLL, C&W and AdvertorchAttack need advertorch 0.2.3. Got, with torch .*: "
        kinds = (FGSM, BIM, PGD, IterLL, CarliniWagner, ours(MOMENTUM))
        assert_refused(*((kind, f"{words}.*. Install the torch of constraints.txt") for kind in kinds))
        for attack in (Semantic(), FunctionAttack(by_path("darker"))):
            assert attack.craft(*digits).images.shape == digits.images.shape
    finally:
        advertorch.cache_clear()
