"""Probes read what plain autograd and a plain forward pass give, one by one and together."""

import pytest
import torch
from asserts import assert_refused
from gradients import truth
from torch import nn
from torch.testing import assert_close

from lightning_gradood.gradients import AllOnes, Predicted, costs, squared_gradient_norms
from lightning_gradood.probes import FeatureProbe, GradientProbe, LogitsProbe, PenultimateProbe, PixelProbe, read_probes

IMAGES = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()


def test_gradients_and_logits_are_plain_autograd_s_in_evaluation_mode(network):
    probe = GradientProbe(Predicted())
    values, logits = probe(network, IMAGES), LogitsProbe()(network, IMAGES)
    assert (network.training, logits.requires_grad) == (True, False)
    network.eval()
    assert_close(values, truth.true_norms(network, IMAGES, truth.predicted), rtol=1e-10, atol=0)
    assert probe.names(network) == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
    assert_close(logits, network(IMAGES).detach(), rtol=0, atol=0)


def test_reading_together_equals_reading_one_by_one_in_the_order_asked(network):
    logits = LogitsProbe()(network, IMAGES)
    several = [LogitsProbe(), GradientProbe(AllOnes()), PixelProbe(), GradientProbe(Predicted())]
    for probes in (several, [PixelProbe()], [LogitsProbe()], []):
        reading = read_probes(probes, network, IMAGES)
        assert list(reading.values) == [probe.name for probe in probes]
        for probe in probes:
            assert_close(reading.values[probe.name], probe(network, IMAGES), rtol=1e-12, atol=0)
        assert_close(reading.logits, logits, rtol=1e-12, atol=0)


def test_probes_of_feature_layers_and_logits_share_a_forward_pass(network, monkeypatch):
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # else one in a hundred is compared
    calls = []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    of_features = [FeatureProbe(["0"]), LogitsProbe(), PenultimateProbe()]
    of_gradients = [GradientProbe(AllOnes()), GradientProbe(Predicted())]
    squared_gradient_norms(network, IMAGES)  # the first call looks the network over
    for probes, passes in ((of_features, 1), (of_gradients, 1), ([*of_features, *of_gradients], 2)):
        expected = {probe.name: probe(network, IMAGES) for probe in probes}
        calls.clear()
        reading = read_probes(probes, network, IMAGES)
        assert len(calls) == passes
        for name, values in expected.items():
            assert_close(reading.values[name], values, rtol=1e-5, atol=1e-6)


def test_logits_that_are_not_finite_are_refused_with_their_number(network):
    images = IMAGES.clone()
    images[[1, 4]] = float("nan")
    both = [GradientProbe(AllOnes()), LogitsProbe()]
    assert_refused(
        (lambda: LogitsProbe()(network, images), "Got NaN or infinity in 2 of 5 rows: 1, 4. Look at these images"),
        (lambda: read_probes(both, network, images), "logits should be finite"),
    )
