"""Trained networks in float32: as near to float64 as plain autograd, image by image or behind one forward pass, is."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.networks import Normalized, load_weights, resnet18, resnet20

from . import truth

DATA = Path(__file__).parents[3] / "shared" / "data"


def cases(name):
    """A trained network, and three images of each kind."""
    path = DATA / f"cifar10_{name}.pt"
    if not path.is_file():
        pytest.skip(f"trained weights are not at hand: {path.name} of the development data")
    network = {"resnet18": resnet18, "resnet20": resnet20}[name](num_classes=10)
    load_weights(network, path)
    network = Normalized(network, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]).eval()
    archive = np.load(DATA / "cifar10_test.npz")
    ends, jpeg = archive["offsets"], archive["jpeg"].tobytes()
    real = [np.asarray(Image.open(BytesIO(jpeg[ends[row] : ends[row + 1]]))) for row in range(3)]
    images, labels = torch.tensor(np.stack(real)).permute(0, 3, 1, 2) / 255, torch.tensor(archive["labels"][:3])
    attacked = images
    for _ in range(5):  # projected gradient descent, 8/255 in the largest pixel
        leaf = attacked.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), labels.long()), leaf)
        attacked = (attacked + 2 / 255 * gradient.sign()).clamp(images - 8 / 255, images + 8 / 255).clamp(0, 1)
    return network, {
        "real": images,
        "attacked": attacked,
        "constant": torch.linspace(0, 1, 3)[:, None, None, None].expand(3, 3, 32, 32),
        "noise": torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize("name", ["resnet20", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_no_entry_is_negative_or_further_off_than_plain_autograd(name, monkeypatch):
    """The bound of 1e-3 holds for every entry where plain autograd keeps it."""
    smallest, guarded = [], forms.guarded

    def watched(inner, traces, again):
        smallest.append(float((inner / traces).min()))
        return guarded(inner, traces, again)

    monkeypatch.setattr(forms, "guarded", watched)
    network, kinds = cases(name)
    for kind, images in kinds.items():
        found, alone = squared_gradient_norms(network.float(), images), truth.true_norms(network, images)
        behind_one = truth.norms_behind_one_forward(network, images)
        exact = truth.true_norms(network.double(), images.double())
        own = torch.maximum((alone - exact).abs(), (behind_one - exact).abs())
        assert (found >= 0).all(), kind
        assert ((found - exact).abs() <= 1e-3 * exact + 3 * own).all(), kind
        assert ((found - exact).abs() / exact).median() <= 3 * (own / exact).median(), kind
    assert len(smallest) > 20
    assert min(smallest) > 1e-3, "how near trained networks come to the guard, which acts below 1e-4"
