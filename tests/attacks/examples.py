"""Every attack that the properties are held against, and functions that stand for a user's own."""

import random

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, FunctionAttack, IterLL, preset
from lightning_gradood.core import Perturbation


def darker(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images * 0.9


def overwriting(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images.mul_(0.5)


def noisy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    change = torch.rand_like(images) + float(np.random.rand()) + random.random()
    return (images + 0.01 * change).clamp(0, 1)


def too_bright(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images + 1


def cropped(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images[..., 1:]


def halves(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images.half()


def undefined(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return images / images


def wordy(network: nn.Module, images: Tensor, labels: Tensor) -> str:
    return "images"


not_callable = 3


def by_path(name: str) -> str:
    """The import path of something in this file."""
    return f"{__name__}.{name}"


MOMENTUM = "advertorch.attacks.MomentumIterativeAttack"


BRIEF = CarliniWagner(steps=15)  # steps of an optimiser only take time
ATTACKS: dict[str, Perturbation] = {
    **{f"paper/{name}": attack for name, attack in (preset("paper") | {"cw": BRIEF}).items()},
    "fgsm/next": FGSM(targeted="next"),
    "bim/random": BIM(targeted="random"),
    "bim/stopping": BIM(stop_at_success=True),
    "pgd/least_likely": PGD(targeted="least_likely"),
    "pgd/stopping": PGD(stop_at_success=True),
    "cw/next": CarliniWagner(targeted="next", steps=10),
    "cw/confident": CarliniWagner(confidence=1.0, steps=8, searches=2),
    "iterll/stopping": IterLL(stop_at_success=True),
    "advertorch/momentum": AdvertorchAttack(MOMENTUM, {"eps": 0.03, "nb_iter": 5}, eps=0.03),
    "advertorch/pgd": AdvertorchAttack(
        "advertorch.attacks.LinfPGDAttack", {"eps": 0.03, "nb_iter": 3}, one_at_a_time=True
    ),
    "function/darker": FunctionAttack(by_path("darker"), eps=0.2),
    "function/noisy": FunctionAttack(by_path("noisy"), one_at_a_time=True),
}
