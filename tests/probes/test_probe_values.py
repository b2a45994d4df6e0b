"""Probes read what plain autograd and a plain forward pass give, and leave the network as it was."""

import re

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import AllOnes, LabelDesign, Predicted
from lightning_gradood.probes import GradientProbe, LogitsProbe, Probe, read_probes

IMAGES = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def network():
    """Return a small network with batch norm in training mode, one parameter frozen: state to restore."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    network[0].bias.requires_grad_(False)
    network[2].eval()
    return network


def plain_norms(network, loss):
    """Squared norms by plain autograd, one image at a time, in evaluation mode."""
    was = [(module, module.training) for module in network.modules()]
    network.eval()
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    network.requires_grad_(True)
    rows = []
    for image in IMAGES:
        gradients = torch.autograd.grad(loss(network(image[None])), list(network.parameters()))
        rows.append(torch.stack([gradient.square().sum() for gradient in gradients]))
    for parameter in frozen:
        parameter.requires_grad_(False)
    for module, training in was:
        module.training = training
    return torch.stack(rows)


def test_gradient_probe_equals_plain_autograd(network):
    losses = {
        AllOnes(): lambda logits: binary_cross_entropy_with_logits(logits, torch.ones_like(logits)),
        Predicted(): lambda logits: cross_entropy(logits, logits.argmax(1)),
    }
    for design, loss in losses.items():
        probe = GradientProbe(design)
        values = probe(network, IMAGES)
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, plain_norms(network, loss), rtol=1e-10, atol=0)
        assert probe.names(network) == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
        assert probe.name == f"gradients/{design.name}"


def test_logits_probe_equals_a_forward_pass_in_evaluation_mode(network):
    probe = LogitsProbe()
    values = probe(network, IMAGES)
    assert network.training
    assert not values.requires_grad
    torch.testing.assert_close(values, network.eval()(IMAGES).detach(), rtol=0, atol=0)
    assert (probe.name, probe.names(network)) == ("logits", [])


class Brightness(Probe):
    """A probe of a user's own."""

    @property
    def name(self):
        return "brightness"

    def names(self, network):
        return ["mean"]

    def __call__(self, network, images):
        return images.flatten(1).mean(1, keepdim=True)


def test_reading_together_equals_reading_one_by_one_in_the_order_asked(network):
    probes = [LogitsProbe(), GradientProbe(AllOnes()), Brightness(), GradientProbe(Predicted())]
    reading = read_probes(probes, network, IMAGES)
    assert list(reading.values) == ["logits", "gradients/all_ones", "brightness", "gradients/predicted"]
    for probe in probes:
        torch.testing.assert_close(reading.values[probe.name], probe(network, IMAGES), rtol=1e-12, atol=0)
    torch.testing.assert_close(reading.logits, LogitsProbe()(network, IMAGES), rtol=1e-12, atol=0)


def test_logits_are_read_for_the_predictions_whatever_is_probed(network):
    for probes in ([Brightness()], [LogitsProbe()], []):
        reading = read_probes(probes, network, IMAGES)
        assert list(reading.values) == [probe.name for probe in probes]
        torch.testing.assert_close(reading.logits, LogitsProbe()(network, IMAGES), rtol=0, atol=0)


def test_logits_that_are_not_finite_are_refused_with_their_number(network):
    images = IMAGES.clone()
    images[[1, 4]] = float("nan")
    with pytest.raises(Refusal, match=re.escape("Got NaN or infinity in 2 of 5 rows: 1, 4. Look at these images")):
        LogitsProbe()(network, images)
    with pytest.raises(Refusal, match="logits should be finite"):
        read_probes([GradientProbe(AllOnes()), LogitsProbe()], network, images)


class Label(LabelDesign):
    """A label design of a user's own, under a name that does not tell its settings."""

    def __init__(self, label):
        self.label = label

    @property
    def name(self):
        return "label"

    def logit_gradient(self, logits):
        return torch.sigmoid(logits) - torch.as_tensor(self.label)


def test_descriptions_tell_probes_and_their_settings_apart():
    class OtherLabel(Label):
        pass

    probes = [
        LogitsProbe(),
        GradientProbe(AllOnes()),
        GradientProbe(Label([0, 1])),
        GradientProbe(Label([1, 1])),
        GradientProbe(Label(torch.tensor([0.5, 1]))),
        GradientProbe(Label(torch.tensor([0.25, 1]))),
        GradientProbe(OtherLabel([0, 1])),
    ]
    descriptions = [str(probe.describe()) for probe in probes]
    assert len(set(descriptions)) == len(probes)
    assert descriptions[2] == str(GradientProbe(Label([0, 1])).describe())
    newer = type("Brightness", (Brightness,), {"version": 2, "__module__": __name__})
    older, newer = Brightness().describe(), newer().describe()
    assert (older["version"], newer["version"]) == (1, 2)
    assert older["probe"] == f"{__name__}.Brightness"
    with pytest.raises(Refusal, match=r"Got `label_design = label` with a Linear\. Keep what it is made from\."):
        GradientProbe(Label(nn.Linear(1, 1))).describe()
