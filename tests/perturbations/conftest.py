"""A classifier that was trained, so that attacks have something to break, every attack, and functions like a user's own."""

import copy
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from lightning_gradood.data import PhotoPatches
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.perturbations import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, FunctionAttack, preset

CONTRAST = 0.2  # of digits, so that a change of 8/255 of a pixel is enough for most, and black clips it
MOMENTUM = "advertorch.attacks.MomentumIterativeAttack"


class Digits(NamedTuple):
    """A trained network with images of 8×8 pixels that it has not seen."""

    network: torch.nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    def double(self):
        return Digits(copy.deepcopy(self.network).double(), self.images.double(), self.labels)


@pytest.fixture(scope="session")
def digits():
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16 * CONTRAST
    labels = torch.from_numpy(found.target).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Normalized(CifarResNet(1, 10, channels=1), mean=[0.3 * CONTRAST], std=[0.35 * CONTRAST])
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(5):
            for rows in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                F.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimizer.step()
        optimizer.zero_grad()
    return Digits(network.eval(), images[1500:1600], labels[1500:1600])


def of_images(change):
    """A function of network, images and labels that looks at the images alone."""
    return lambda network, images, labels: change(images)


darker, too_bright = of_images(lambda images: images * 0.9), of_images(lambda images: images + 1)
overwriting, undefined = of_images(lambda images: images.mul_(0.5)), of_images(lambda images: images / images)
cropped, wordy, not_callable = of_images(lambda images: images[..., 1:]), of_images(lambda images: "images"), 3


@of_images
def noisy(images):
    change = torch.rand_like(images) + float(np.random.rand()) + random.random()
    return (images + 0.01 * change).clamp(0, 1)


def by_path(name):
    """The import path of something in this file."""
    return f"{__name__}.{name}"


def patches(size, count):
    """Patches of photographs, uint8 [count, size, size, 3], spread over both that come with scikit-learn."""
    pixels = PhotoPatches(size).open().pixels
    return pixels[np.linspace(0, len(pixels) - 1, count).astype(int)]


ATTACKS = {
    **{f"paper/{name}": attack for name, attack in (preset("paper") | {"cw": CarliniWagner(steps=15)}).items()},
    "fgsm/next": FGSM(targeted="next"),
    "bim/random": BIM(targeted="random"),
    "pgd/least_likely": PGD(targeted="least_likely"),
    "cw/next": CarliniWagner(targeted="next", steps=10),
    "cw/confident": CarliniWagner(confidence=1.0, steps=8, searches=2),
    "advertorch/momentum": AdvertorchAttack(MOMENTUM, {"eps": 0.03, "nb_iter": 5}, eps=0.03),
    "advertorch/pgd": AdvertorchAttack(
        "advertorch.attacks.LinfPGDAttack", {"eps": 0.03, "nb_iter": 3}, one_at_a_time=True
    ),
    "function/darker": FunctionAttack(by_path("darker"), eps=0.2),
    "function/noisy": FunctionAttack(by_path("noisy"), one_at_a_time=True),
}
