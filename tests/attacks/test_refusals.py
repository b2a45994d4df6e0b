"""Bad input is one sentence, and the network is left as it was also then."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, FunctionAttack, IterLL
from lightning_gradood.core import Perturbation, Refusal

from .conftest import Digits
from .examples import MOMENTUM, by_path

GRADIENT_ATTACKS: list[Perturbation] = [
    FGSM(),
    BIM(),
    PGD(),
    CarliniWagner(steps=2),
    IterLL(),
    AdvertorchAttack(MOMENTUM),
]
every_gradient_attack = pytest.mark.parametrize("attack", GRADIENT_ATTACKS, ids=lambda attack: type(attack).__name__)


@pytest.mark.parametrize("kind", [FGSM, BIM, PGD, IterLL])
@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, 0, 1, 8, True, float("nan"), float("inf"), "0.1", None])
def test_eps_is_a_float_above_0_up_to_1(kind: type[FGSM], value: Any) -> None:
    with pytest.raises(Refusal, match="`eps` should be a float above 0 and at most 1, as pixels are in"):
        kind(eps=value)


def test_an_integer_eps_is_taken_for_grey_levels() -> None:
    with pytest.raises(
        Refusal, match=re.escape("Got `eps = 8`. If 8 of 255 grey levels are meant, write 0.031373, which is")
    ):
        FGSM(eps=8)
    with pytest.raises(Refusal, match=r"If 4 of 255 grey levels are meant, write 0.015686, which is 4/255"):
        FGSM(eps=4.0)
    assert FGSM(eps=1.0).eps == 1.0


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (BIM, {"step": 1}, "`step` should be a float above 0 and at most 1"),
        (PGD, {"step": 0.0}, "`step` should be a float above 0 and at most 1"),
        (IterLL, {"steps": 0}, "`steps` should be a positive integer. Got `steps = 0`"),
        (BIM, {"steps": 2.0}, "`steps` should be a positive integer. Got `steps = 2.0`"),
        (BIM, {"steps": True}, "`steps` should be a positive integer. Got `steps = True`"),
        (CarliniWagner, {"steps": 0}, "`steps` should be a positive integer"),
        (CarliniWagner, {"searches": -1}, "`searches` should be a positive integer"),
        (CarliniWagner, {"c": 0.0}, "`c` should be a finite number above 0. Got `c = 0.0`. Write e.g. 1"),
        (CarliniWagner, {"learning_rate": -1.0}, "`learning_rate` should be a finite number above 0"),
        (
            CarliniWagner,
            {"confidence": -1.0},
            "`confidence` should be a finite number of at least 0. Got `confidence = -1.0`",
        ),
        (CarliniWagner, {"confidence": float("nan")}, "`confidence` should be a finite number"),
        (FunctionAttack, {"function": by_path("darker"), "eps": 8}, "`eps` should be a float above 0"),
        (AdvertorchAttack, {"attack": MOMENTUM, "eps": 8}, "`eps` should be a float above 0"),
    ],
)
def test_settings_without_meaning_are_refused(kind: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        kind(**settings)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
            r"Got `images.dtype = torch.uint8`. Convert 8-bit pixels with `images",
        ),
        (torch.zeros(3, 1, 8, 8, dtype=torch.float16), "`images` should be float32 or float64 pixels"),
        (torch.full((3, 1, 8, 8), 255.0), r"`images` should be pixels in \[0, 1\]. Got values from 255 to 255. Divide"),
        (torch.full((3, 1, 8, 8), -1e-3), "Got values from -0.001 to -0.001"),
        (torch.full((3, 1, 8, 8), float("nan")), "Got values from nan to nan"),
        (torch.zeros(0, 1, 8, 8), r"at least one image. Got `images.shape = \[0, 1, 8, 8\]`"),
        (torch.zeros(3), r"`images` should be a batch \[N, ...\]"),
    ],
)
def test_images_are_pixels(images: Tensor, words: str, digits: Digits) -> None:
    with pytest.raises(Refusal, match=words):
        FGSM().craft(digits.network, images, torch.zeros(len(images), dtype=torch.int64))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(2, dtype=torch.int64), r"`labels` should be one class index for each image, integer \[3\]"),
        (torch.zeros(3), r"Got `labels` of shape \[3\], torch.float32. Give -1 where the prediction is meant"),
        (torch.zeros(3, 10, dtype=torch.int64), r"Got `labels` of shape \[3, 10\]"),
        (torch.tensor([0, -2, 1]), r"Got `labels.min\(\) = -2`"),
        (torch.tensor([0, 10, 1]), r"below the network's number of classes, 10. Got `labels.max\(\) = 10`. Give -1"),
    ],
)
def test_labels_are_classes(labels: Tensor, words: str, digits: Digits) -> None:
    with pytest.raises(Refusal, match=words):
        FGSM().craft(digits.network, digits.images[:3], labels)


@pytest.mark.parametrize("ids", [["a"], "abc", []])
def test_ids_are_one_name_for_each_image(ids: Any, digits: Digits) -> None:
    with pytest.raises(Refusal, match=r"`ids` should be one name for each of the 3 images. Got `ids` of length"):
        PGD().craft(digits.network, digits.images[:3], digits.labels[:3], ids)


class Rounding(nn.Module):
    """A network that autograd cannot follow to its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.detach())
        return logits


@every_gradient_attack
def test_a_network_without_gradient_in_its_input_is_refused(attack: Perturbation, digits: Digits) -> None:
    with pytest.raises(
        Refusal, match=r"should depend on its input through autograd.* Got `network = Rounding` without one"
    ):
        attack.craft(Rounding(digits.network), digits.images[:3], digits.labels[:3])


class Shaped(nn.Module):
    """A network whose output is no logits."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor]:
        zeros = torch.zeros(self.shape) * images.sum()
        return zeros if self.shape else (zeros,)


@pytest.mark.parametrize("shape", [[3], [3, 1], [2, 10], [3, 10, 1], []])
@pytest.mark.parametrize("unknown", [False, True])
def test_an_output_that_is_no_logits_is_refused(shape: list[int], unknown: bool) -> None:
    labels = torch.full((3,), -1) if unknown else torch.zeros(3, dtype=torch.int64)
    with pytest.raises(
        Refusal, match=r"the network's output should be logits \[N, classes\], a row for each image and two"
    ):
        FGSM().craft(Shaped(shape), torch.rand(3, 1, 8, 8), labels)


def test_parameters_of_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(Refusal, match=r"Got `1.weight`, an inference tensor. Build or load the network outside"):
        FGSM().craft(network, torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


class Failing(nn.Module):
    """Raise at the second pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == 2:
            raise RuntimeError("out of memory, or some such thing")
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS[1:], ids=lambda attack: type(attack).__name__)
def test_everything_is_restored_when_the_network_raises(attack: Perturbation, digits: Digits) -> None:
    network = Failing(digits.network).train()
    frozen = next(network.parameters()).requires_grad_(False)
    images, state = digits.images.clone(), torch.get_rng_state()
    try:
        with torch.inference_mode():
            with pytest.raises(RuntimeError, match="some such thing"):
                attack.craft(network, images, digits.labels)
            assert torch.is_inference_mode_enabled()
        assert all(module.training for module in network.modules())
        assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
        assert not frozen.requires_grad
        assert all(parameter.grad is None for parameter in network.parameters())
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(images, digits.images)
    finally:
        digits.network.eval().requires_grad_(True)
