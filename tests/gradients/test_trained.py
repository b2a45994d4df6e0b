"""Trained networks in float32: as near to float64 as plain autograd itself is, on real, attacked, constant and noise images.

Where an entry is off, so is plain autograd: a ReLU whose input is zero to seven digits opens in one way and not in the
other. Plain autograd is therefore asked twice, image by image and behind one forward pass of the batch.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.networks import Normalized, load_weights, resnet18, resnet20

from . import truth
from .test_exactness import SMALL, SOME

DATA = Path(__file__).parents[3] / "shared" / "data"
KINDS = ("real", "attacked", "constant", "noise")


def _classifier(name: str) -> nn.Module:
    path = DATA / f"cifar10_{name}.pt"
    if not path.is_file():
        pytest.skip(f"trained weights are not at hand: {path.name} of the development data")
    network = {"resnet18": resnet18, "resnet20": resnet20}[name](num_classes=10)
    load_weights(network, path)
    return Normalized(network, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]).eval()


def _real(number: int) -> tuple[Tensor, Tensor]:
    archive = np.load(DATA / "cifar10_test.npz")
    ends, jpeg = archive["offsets"], archive["jpeg"].tobytes()
    pictures = [np.asarray(Image.open(BytesIO(jpeg[ends[row] : ends[row + 1]]))) for row in range(number)]
    return torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2) / 255, torch.tensor(archive["labels"][:number])


def _attacked(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Projected gradient descent, 8/255 in the largest pixel, five steps."""
    attacked = images
    for _ in range(5):
        leaf = attacked.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), labels.long()), leaf)
        attacked = (attacked + 2 / 255 * gradient.sign()).clamp(images - 8 / 255, images + 8 / 255).clamp(0, 1)
    return attacked


def _images(kind: str, network: nn.Module) -> Tensor:
    if kind == "noise":
        return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if kind == "constant":
        return torch.linspace(0, 1, 3)[:, None, None, None].expand(3, 3, 32, 32)
    images, labels = _real(3)
    return images if kind == "real" else _attacked(network, images, labels)


NETWORKS = ["resnet20", pytest.param("resnet18", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_entry_is_negative_or_further_off_than_plain_autograd(name: str) -> None:
    """The bound of 1e-3 holds for every entry where plain autograd keeps it."""
    for kind in KINDS:
        network = _classifier(name)
        images = _images(kind, network)
        found = squared_gradient_norms(network, images)
        own_found = truth.true_norms(network, images)
        behind_one = truth.norms_behind_one_forward(network, images)
        exact = truth.true_norms(network.double(), images.double())
        own = torch.maximum((own_found - exact).abs(), (behind_one - exact).abs())
        assert (found >= 0).all(), kind
        assert ((found - exact).abs() <= 1e-3 * exact + 3 * own).all(), kind
        assert ((found - exact).abs() / exact).median() <= 3 * (own / exact).median(), kind


@pytest.mark.parametrize("name", NETWORKS)
def test_gram_forms_of_trained_networks_do_not_cancel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How near trained networks come to the guard, which acts below 1e-4."""
    smallest = []
    guarded = forms.guarded

    def watched(inner: Tensor, traces: Tensor, again: object) -> Tensor:
        smallest.append(float((inner / traces).min()))
        return guarded(inner, traces, again)  # type: ignore[arg-type]

    monkeypatch.setattr(forms, "guarded", watched)
    network = _classifier(name)
    for kind in KINDS:
        squared_gradient_norms(network, _images(kind, network))
    assert len(smallest) > 20
    assert min(smallest) > 1e-3


@pytest.mark.parametrize(
    "name", ["VisionTransformer", *(pytest.param(name, marks=pytest.mark.slow) for name in SOME[1:3])]
)
def test_torchvision_network_after_training_on_scans_of_digits(name: str) -> None:
    """benchmarks/trained.py does the same for nine networks, a hundred steps each, on photographs."""
    digits = sklearn.datasets.load_digits()
    images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), 32).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10, **SMALL if name == "VisionTransformer" else {})
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for rows in torch.randperm(len(images)).split(8)[:25]:
        optimizer.zero_grad()
        F.cross_entropy(network(images[rows]), torch.tensor(digits.target)[rows]).backward()
        optimizer.step()
    network, images = network.eval(), images[:4]
    found, alone = squared_gradient_norms(network, images), truth.true_norms(network, images)
    behind_one = truth.norms_behind_one_forward(network, images)
    exact = truth.true_norms(network.double(), images.double())
    truth.assert_exact(squared_gradient_norms(network, images.double()), exact)
    scale = exact + 1e-12 * exact.amax(1, keepdim=True)  # a key's bias is zero but for rounding
    own = torch.maximum((alone - exact).abs(), (behind_one - exact).abs()) / scale
    error = (found - exact).abs() / scale
    for quantile in (0.5, 0.99, 1.0):
        assert error.quantile(quantile) <= 3 * own.quantile(quantile)
