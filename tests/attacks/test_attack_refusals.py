"""Bad input is one sentence, and the network is left as it was also then."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_refused
from torch import Tensor, nn

from lightning_gradood.attacks import (
    BIM,
    FGSM,
    PGD,
    AdvertorchAttack,
    CarliniWagner,
    FunctionAttack,
    IterLL,
    preset,
)
from lightning_gradood.core import Perturbation

from .conftest import Digits
from .examples import MOMENTUM, by_path

GRADIENT_ATTACKS: list[Perturbation] = [
    FGSM(), BIM(), PGD(), CarliniWagner(steps=2), IterLL(), AdvertorchAttack(MOMENTUM),
]  # fmt: skip
NAN, INF = float("nan"), float("inf")


def test_settings_without_meaning_are_refused() -> None:
    float_words = "should be a float above 0 and at most 1, as pixels are in"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda kind=kind, value=value: kind(eps=value), f"`eps` {float_words}")
        for kind in (FGSM, BIM, PGD, IterLL)
        for value in (0.0, -0.1, 1.5, 0, 1, 8, True, NAN, INF, "0.1", None)
    ]
    attack = lambda path, **more: lambda: AdvertorchAttack(f"advertorch.attacks.{path}", **more)  # noqa: E731
    table: list[tuple[Any, dict[str, Any], str]] = [
        (FGSM, {"eps": 8}, "Got `eps = 8`. If 8 of 255 grey levels are meant, write 0.031373, which is"),
        (FGSM, {"eps": 4.0}, "If 4 of 255 grey levels are meant, write 0.015686, which is 4/255"),
        (BIM, {"step": 1}, f"`step` {float_words}"),
        (PGD, {"step": 0.0}, f"`step` {float_words}"),
        (IterLL, {"steps": 0}, "`steps` should be a positive integer. Got `steps = 0`"),
        (BIM, {"steps": 2.0}, "`steps` should be a positive integer. Got `steps = 2.0`"),
        (BIM, {"steps": True}, "`steps` should be a positive integer. Got `steps = True`"),
        (CarliniWagner, {"steps": 0}, "`steps` should be a positive integer"),
        (CarliniWagner, {"searches": -1}, "`searches` should be a positive integer"),
        (CarliniWagner, {"c": 0.0}, "`c` should be a finite number above 0. Got `c = 0.0`. Write e.g. 1"),
        (CarliniWagner, {"learning_rate": -1.0}, "`learning_rate` should be a finite number above 0"),
        (CarliniWagner, {"confidence": -1.0}, "should be a finite number of at least 0. Got `confidence = -1.0`"),
        (CarliniWagner, {"confidence": NAN}, "`confidence` should be a finite number"),
        (FunctionAttack, {"function": by_path("darker"), "eps": 8}, f"`eps` {float_words}"),
        (AdvertorchAttack, {"attack": MOMENTUM, "eps": 8}, f"`eps` {float_words}"),
        (preset, {"name": "lee"}, "`preset` should be one of paper, modern, pilot. Got `preset = 'lee'`"),
        (attack("LinfFABAttack", targeted="next"), {}, "LinfFABAttack can be: left out. Got `targeted = 'next'`"),
        (attack("JacobianSaliencyMapAttack"), {}, "JacobianSaliencyMapAttack can be: given. Got `targeted = None`"),
        (AdvertorchAttack, {"attack": MOMENTUM, "settings": {"targeted": True}}, "should be beside `settings`"),
        (AdvertorchAttack, {"attack": MOMENTUM, "settings": {"epsilon": 0.1}}, "eps, nb_iter"),
        (AdvertorchAttack, {"attack": MOMENTUM, "settings": {"loss_fn": nn.ReLU()}}, "should be plain data"),
    ]
    for path in ("advertorch.attacks.Nothing", "torch.nn.Linear", "no_such_package.Attack", "..", "print"):
        words = "`attack` should be the import path of an attack class of advertorch"
        table.append((AdvertorchAttack, {"attack": path}, words))
    for path in ("no_such_package.function", by_path("nothing"), by_path("not_callable"), "", "a b"):
        words = "`function` should be the import path of a function of network, images and labels"
        table.append((FunctionAttack, {"function": path}, words))
    cases += [(lambda kind=kind, given=given: kind(**given), words) for kind, given, words in table]
    assert_refused(*cases)
    assert FGSM(eps=1.0).eps == 1.0


class Rounding(nn.Module):
    """A network that autograd cannot follow to its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.detach())
        return logits


class Shaped(nn.Module):
    """A network whose output is no logits."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor]:
        zeros = torch.zeros(self.shape) * images.sum()
        return zeros if self.shape else (zeros,)


def test_networks_images_labels_and_ids_that_do_not_fit_are_refused(digits: Digits) -> None:
    grey, zeros, names = (
        (3, 1, 8, 8),
        torch.zeros(3, dtype=torch.int64),
        "`ids` should be one name for each of the 3 images",
    )
    images: list[tuple[Tensor, str]] = [
        (torch.zeros(grey, dtype=torch.uint8), "Got `images.dtype = torch.uint8`. Convert 8-bit pixels with `images"),
        (torch.zeros(grey, dtype=torch.float16), "`images` should be float32 or float64 pixels"),
        (torch.full(grey, 255.0), "`images` should be pixels in [0, 1]. Got values from 255 to 255. Divide"),
        (torch.full(grey, -1e-3), "Got values from -0.001 to -0.001"),
        (torch.full(grey, NAN), "Got values from nan to nan"),
        (torch.zeros(0, 1, 8, 8), "at least one image. Got `images.shape = [0, 1, 8, 8]`"),
        (torch.zeros(3), "`images` should be a batch [N, ...]"),
    ]
    labels: list[tuple[Tensor, str]] = [
        (zeros[:2], "`labels` should be one class index for each image, integer [3]"),
        (torch.zeros(3), "Got `labels` of shape [3], torch.float32. Give -1 where the prediction is meant"),
        (torch.zeros(3, 10, dtype=torch.int64), "Got `labels` of shape [3, 10]"),
        (torch.tensor([0, -2, 1]), "Got `labels.min() = -2`"),
        (torch.tensor([0, 10, 1]), "below the network's number of classes, 10. Got `labels.max() = 10`. Give -1"),
    ]
    with torch.inference_mode():
        built_there = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    network, three = digits.network, digits.images[:3]
    logits = "the network's output should be logits [N, classes], a row for each image and two"
    rounding = "Got `network = Rounding` without one"
    cases: list[tuple[Callable[[], object], str]] = [
        *((lambda one=one: FGSM().craft(network, one, zeros[: len(one)]), words) for one, words in images),
        *((lambda one=one: FGSM().craft(network, three, one), words) for one, words in labels),
        *((lambda one=one: PGD().craft(network, three, zeros, one), names) for one in (["a"], "abc", [])),
        *((lambda one=one: one.craft(Rounding(network), three, zeros), rounding) for one in GRADIENT_ATTACKS),
        *(
            (lambda one=one, label=label: FGSM().craft(Shaped(one), three, zeros + label), logits)
            for one in ([3], [3, 1], [2, 10], [3, 10, 1], [])
            for label in (0, -1)
        ),
        (lambda: FGSM().craft(built_there, three, zeros), "Got `1.weight`, an inference tensor. Build or load the"),
    ]
    assert_refused(*cases)


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
