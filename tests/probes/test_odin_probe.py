"""ODIN's probe is plain autograd's, one image at a time, and pytorch-ood's; its gradients are shared by all magnitudes."""

import re

import pytest
import torch
from pytorch_ood import detector as judges
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import OdinProbe
from lightning_gradood.detectors.odin import _signs
from lightning_gradood.probes.input_gradients import signs_of

IMAGES = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(1))
TEMPERATURES, MAGNITUDES = (1.0, 10.0, 1000.0), (0.0, 0.0014, 0.05)


@pytest.fixture
def network():
    """Return a smooth network, so that no gradient is exactly 0, in training mode: state to restore."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4))
    network[0].bias.requires_grad_(False)
    return network


def plain_odin(network, image, temperature, magnitude):
    """One image's score, written down from the paper."""
    image = image[None].clone().requires_grad_()
    logits = network(image) / temperature
    (gradient,) = torch.autograd.grad(cross_entropy(logits, logits.argmax(1)), image)
    step = torch.where(gradient >= 0, 1.0, -1.0).double()
    return torch.softmax(network(image - magnitude * step) / temperature, 1).max().item()


def test_values_equal_plain_autograd(network):
    network.double()
    values = OdinProbe(TEMPERATURES, MAGNITUDES)(network, IMAGES.double())
    network.eval().requires_grad_(True)
    expected = [
        [plain_odin(network, image.double(), T, m) for T in TEMPERATURES for m in MAGNITUDES] for image in IMAGES
    ]
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)


def test_values_equal_pytorch_ood(network):
    probe = OdinProbe(TEMPERATURES, MAGNITUDES)
    values = probe(network, IMAGES)
    network.eval()
    for column, (temperature, magnitude) in zip(values.T, probe.grid, strict=True):
        judged = -judges.ODIN(network, eps=magnitude, temperature=temperature).predict(IMAGES)
        torch.testing.assert_close(column, judged.double(), rtol=1e-5, atol=0)
    judged = judges.ODIN(network, eps=0.05, temperature=1.0).predict(IMAGES)
    assert spearmanr(-values[:, 2], judged.detach()).statistic == pytest.approx(1, abs=1e-5)


def test_a_very_sure_network_still_has_a_direction(network):
    """In float32 softmax gives exactly 1 there, and cross entropy's own gradient is exactly 0."""
    network.eval()
    with torch.no_grad():
        network[4].weight *= 500
    images = IMAGES.clone().requires_grad_()
    logits = network(images)
    sure = (logits.softmax(1) == 1).any(1)
    found = _signs(images, logits, 1.0)[sure]
    images = IMAGES.double().requires_grad_()
    expected = _signs(images, network.double()(images), 1.0)[sure]
    assert sure.sum() > 3
    assert (found == expected).double().mean() > 0.999
    assert 0.1 < (found > 0).float().mean() < 0.9


def test_a_gradient_of_zero_counts_as_positive():
    assert signs_of(torch.tensor([2.0, 0.0, -0.0, -1e-40])).tolist() == [1, 1, 1, -1]


def test_one_backward_a_temperature_and_no_pass_for_magnitude_zero(network, monkeypatch):
    forwards, backwards, run = [], [], torch.autograd._engine_run_backward

    def counted(*args, **kwargs):
        backwards.append(1)
        return run(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "_engine_run_backward", counted)
    network.register_forward_pre_hook(lambda *_: forwards.append(1))
    OdinProbe(TEMPERATURES, MAGNITUDES)(network, IMAGES)
    assert (len(forwards), len(backwards)) == (1 + 3 * 2, 3)
    forwards.clear(), backwards.clear()
    OdinProbe(TEMPERATURES, (0.0,))(network, IMAGES)
    assert (len(forwards), len(backwards)) == (1, 0)


def test_columns_are_named_and_grids_described(network):
    probe = OdinProbe((1, 1000), (0, 0.0014))
    assert (probe.name, probe.grid) == ("odin", [(1, 0), (1, 0.0014), (1000, 0), (1000, 0.0014)])
    assert probe.names(network) == ["T=1 eps=0", "T=1 eps=0.0014", "T=1000 eps=0", "T=1000 eps=0.0014"]
    assert len(OdinProbe().grid) == 44
    described = [OdinProbe(), OdinProbe((1,)), OdinProbe(magnitudes=(0,))]
    assert len({str(probe.describe()) for probe in described}) == 3
    assert not OdinProbe().needs_preparation


def test_grids_without_meaning_are_refused():
    for settings, words in (
        ({"temperatures": []}, "`temperatures` should be one or more different numbers, each positive and finite. Got"),
        ({"temperatures": [0.0]}, "Got `temperatures = [0.0]`. Write e.g. [1.0, 1000.0]."),
        ({"magnitudes": [0.1, 0.1]}, "Got `magnitudes = [0.1, 0.1]`. Write e.g. [0.0, 0.0014]."),
        ({"magnitudes": [-0.1]}, "at least 0, in units of pixels in [0, 1], and finite. Got `magnitudes = [-0.1]`"),
        ({"magnitudes": [float("nan")]}, "Got `magnitudes = [nan]`"),
    ):
        with pytest.raises(Refusal, match=re.escape(words)):
            OdinProbe(**settings)
