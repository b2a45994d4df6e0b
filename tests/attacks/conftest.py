"""A classifier that was trained, so that attacks have something to break: digits of 8×8 pixels, a few seconds."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from lightning_gradood.networks import CifarResNet, Normalized

CONTRAST = 0.2  # so that a change of 8/255 of a pixel is enough for most, and black clips it


@dataclass(frozen=True)
class Digits:
    """A trained network with images that it has not seen."""

    network: torch.nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    def double(self):
        """The same in float64, on a copy."""
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
