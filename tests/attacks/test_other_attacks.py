"""Attacks by import path: any class of advertorch, any function."""

import sys

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import AdvertorchAttack, FunctionAttack
from lightning_gradood.attacks.advertorch_compatibility import advertorch_class
from lightning_gradood.core import Refusal

from .conftest import Digits
from .examples import MOMENTUM, by_path


def test_advertorch_is_given_network_settings_and_labels(digits: Digits) -> None:
    found = AdvertorchAttack(MOMENTUM, {"eps": 0.03, "nb_iter": 5}, eps=0.03).craft(
        digits.network, digits.images, digits.labels
    )
    frozen = digits.network.requires_grad_(False)
    direct = advertorch_class(MOMENTUM)(frozen, eps=0.03, nb_iter=5).perturb(digits.images, digits.labels)
    digits.network.requires_grad_(True)
    assert torch.equal(found.images, direct)


@pytest.mark.filterwarnings("ignore")  # advertorch's own, about schedulers and SciPy's optimiser
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CarliniWagnerL2Attack", {"max_iterations": 40, "binary_search_steps": 1, "initial_const": 1.0}),
        ("DDNL2Attack", {"nb_iter": 5}),
        ("L2PGDAttack", {"eps": 1, "nb_iter": 3, "rand_init": False}),
        ("LBFGSAttack", {"binary_search_steps": 1, "max_iterations": 3}),
        ("LinfFABAttack", {"n_restarts": 1, "n_iter": 2, "eps": 0.1}),
        ("SinglePixelAttack", {"max_pixels": 3}),
    ],
)
def test_other_classes_of_advertorch_work(name: str, settings: dict[str, object], digits: Digits) -> None:
    """Integers for eps are taken, the number of classes is filled in, and random draws are of no consequence."""
    attack = AdvertorchAttack(f"advertorch.attacks.{name}", settings, one_at_a_time=True)
    found = attack.perturb(digits.network, digits.images[:3], digits.labels[:3])
    assert float(found.l2.max()) > 0


def test_the_mended_import_leaves_torch_as_it_was() -> None:
    assert not hasattr(sys.modules["torch.autograd.gradcheck"], "zero_gradients")


@pytest.mark.parametrize(
    "path", ["advertorch.attacks.Nothing", "torch.nn.Linear", "no_such_package.Attack", "..", "print"]
)
def test_paths_that_are_no_attack_are_refused(path: str) -> None:
    with pytest.raises(Refusal, match="`attack` should be the import path of an attack class of advertorch"):
        AdvertorchAttack(path)


def test_settings_that_the_class_does_not_take_are_refused_with_the_choices() -> None:
    with pytest.raises(Refusal, match=r"epsilon.*Choose from .*eps, nb_iter"):
        AdvertorchAttack(MOMENTUM, {"epsilon": 0.1})
    with pytest.raises(Refusal, match="`settings` should be plain data"):
        AdvertorchAttack(MOMENTUM, {"loss_fn": nn.CrossEntropyLoss()})


def test_a_function_is_given_everything(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        gradients_of = [parameter.requires_grad for parameter in network.parameters()]
        seen.append((network, network.training, any(gradients_of), labels.tolist(), torch.is_grad_enabled()))
        return images / 2

    monkeypatch.setattr(f"{by_path('darker')}", spy)
    with torch.no_grad():
        FunctionAttack(by_path("darker")).craft(digits.network, digits.images[:3], digits.labels[:3])
    assert seen == [(digits.network, False, False, digits.labels[:3].tolist(), True)]


def test_a_function_that_overwrites_its_input_spoils_nothing(digits: Digits) -> None:
    before = digits.images.clone()
    crafted = FunctionAttack(by_path("overwriting")).craft(digits.network, digits.images, digits.labels)
    assert torch.equal(digits.images, before)
    assert torch.equal(crafted.clean, before)
    assert torch.equal(crafted.images, before / 2)


def test_the_version_of_a_function_is_part_of_its_description() -> None:
    first, second = (FunctionAttack(by_path("darker"), version=version).describe() for version in (1, 2))
    assert first["version"] == 1
    assert second["version"] == 2


@pytest.mark.parametrize("attack", [
    FunctionAttack(by_path("noisy")),
    AdvertorchAttack("advertorch.attacks.LinfPGDAttack", {"eps": 0.03, "nb_iter": 2}),
])  # fmt: skip
def test_random_draws_for_a_whole_batch_are_refused(attack: FunctionAttack, digits: Digits) -> None:
    state = torch.get_rng_state()
    with pytest.raises(Refusal, match="`one_at_a_time` should be true for an attack that draws random numbers"):
        attack.craft(digits.network, digits.images, digits.labels)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("too_bright", r"that FunctionAttack returns should be pixels in \[0, 1\]. Got values from 1 to"),
        ("undefined", r"should be pixels in \[0, 1\]. Got values from nan"),
        ("cropped", r"should be \[100, 1, 8, 8\], torch.float32, as those it was given. Got \[100, 1, 8, 7\]"),
        ("halves", r"should be .* torch.float32.* Got \[100, 1, 8, 8\], torch.float16"),
        ("wordy", "Got str. Return one image for each"),
    ],
)
def test_what_a_function_should_not_return_is_refused(function: str, words: str, digits: Digits) -> None:
    with pytest.raises(Refusal, match=words):
        FunctionAttack(by_path(function)).craft(digits.network, digits.images, digits.labels)


@pytest.mark.parametrize("function", ["cropped", "wordy"])
def test_so_is_it_for_each_image_alone(function: str, digits: Digits) -> None:
    with pytest.raises(Refusal, match="the images that the attack returns should be"):
        FunctionAttack(by_path(function), one_at_a_time=True).craft(digits.network, digits.images, digits.labels)


def test_results_beyond_eps_are_refused(digits: Digits) -> None:
    with pytest.raises(
        Refusal, match=r"differ from the clean ones by at most `eps = 0.01` a pixel. Got a difference of 0.02"
    ):
        FunctionAttack(by_path("darker"), eps=0.01).craft(digits.network, digits.images, digits.labels)
    with pytest.raises(Refusal, match=r"by at most `eps = 0.01` a pixel"):
        AdvertorchAttack(MOMENTUM, {"eps": 0.03, "nb_iter": 2}, eps=0.01).craft(
            digits.network, digits.images, digits.labels
        )


@pytest.mark.parametrize("path", ["no_such_package.function", by_path("nothing"), by_path("not_callable"), "", "a b"])
def test_paths_that_are_no_function_are_refused(path: str) -> None:
    with pytest.raises(
        Refusal, match="`function` should be the import path of a function of network, images and labels"
    ):
        FunctionAttack(path)
