"""A classifier that was trained, so that attacks have something to break: digits of 8×8 pixels, a few seconds."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_gradood.networks import CifarResNet, Normalized

CONTRAST = 0.2  # so that a change of 8/255 of a pixel is enough for most, and black clips it


@dataclass(frozen=True)
class Digits:
    """A trained network with images that it has not seen."""

    network: nn.Module
    images: Tensor
    labels: Tensor

    def double(self) -> "Digits":
        """The same in float64, on a copy."""
        copy = _network()
        copy.load_state_dict(self.network.state_dict())
        return Digits(copy.double().eval(), self.images.double(), self.labels)


@pytest.fixture(scope="session")
def digits() -> Digits:
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16 * CONTRAST
    labels = torch.from_numpy(found.target).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _trained(_network(), images[:1500], labels[:1500])
    return Digits(network.eval(), images[1500:1600], labels[1500:1600])


def _network() -> nn.Module:
    return Normalized(CifarResNet(1, 10, channels=1), mean=[0.3 * CONTRAST], std=[0.35 * CONTRAST])


def _trained(network: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(5):
        for rows in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return network
