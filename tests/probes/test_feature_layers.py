"""Feature layers: the right places, averaged as the definition says, read in one pass that leaves no trace."""

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import AllOnes, Predicted, costs, squared_gradient_norms
from lightning_gradood.networks import CifarResNet, Normalized, densenet_bc_100_12, resnet18, resnet20
from lightning_gradood.probes import (
    PENULTIMATE,
    FeatureProbe,
    FeatureSpreadProbe,
    GradientProbe,
    LogitsProbe,
    PenultimateProbe,
    columns_by_layer,
    feature_layer_names,
    feature_layer_outputs,
    read_probes,
)
from lightning_gradood.probes.feature_layers import feature_layer_output

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]


class Tokens(nn.Module):
    """A transformer in small: patches become tokens, whose mean is classified."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.encoder = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.heads = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4))

    def forward(self, images):
        tokens = self.encoder(self.patches(images).flatten(2).transpose(1, 2))
        return self.heads(tokens.mean(dim=1))


def plain():
    """A network without any of the names that are looked for; a layer overwrites its input."""
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(5 * 14 * 14, 4))


USUAL = [
    (resnet18, RESNET),
    (resnet20, RESNET[:4]),
    (lambda: Normalized(resnet18(), [0.5] * 3, [0.5] * 3), [f"network.{name}" for name in RESNET]),
    (lambda: torchvision.models.resnet50(weights=None), RESNET),
    (densenet_bc_100_12, ["features.conv0", "features.transition1", "features.transition2", PENULTIMATE]),
    (
        lambda: torchvision.models.densenet121(weights=None),
        ["features.relu0", "features.transition1", "features.transition2", "features.transition3", PENULTIMATE],
    ),
    (lambda: torchvision.models.mobilenet_v2(weights=None), ["features", PENULTIMATE]),
    (Tokens, ["patches", "encoder", PENULTIMATE]),
    (plain, ["0", PENULTIMATE]),
    (lambda: Normalized(plain(), [0.5] * 3, [0.5] * 3), ["network.0", PENULTIMATE]),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), [PENULTIMATE]),
    (lambda: nn.Linear(12, 2), [PENULTIMATE]),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten()), ["0", "1"]),
]


def test_the_usual_feature_layers():
    assert [feature_layer_names(build()) for build, _ in USUAL] == [names for _, names in USUAL]


def test_feature_layers_of_a_resnet_are_the_means_of_a_forward_by_hand():
    network = resnet18().eval()
    with torch.no_grad():
        logits, layers = feature_layer_outputs(network, IMAGES, [*feature_layer_names(network), PENULTIMATE])
        features = network.relu(network.bn1(network.conv1(IMAGES)))
        expected = [features.mean((2, 3))]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            features = stage(features)
            expected.append(features.mean((2, 3)))
    for found, value in zip(layers, [*expected, expected[-1]], strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, network.fc(expected[-1]), rtol=1e-5, atol=1e-6)


def test_the_last_feature_layer_of_a_densenet_is_read_after_its_norm_and_activation():
    network = densenet_bc_100_12().eval()
    with torch.no_grad():
        _, layers = feature_layer_outputs(network, IMAGES, feature_layer_names(network))
        expected = F.relu(network.features(IMAGES)).mean((2, 3))
        stem = network.features.conv0(IMAGES).mean((2, 3))
    torch.testing.assert_close(layers[-1], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layers[0], stem, rtol=1e-5, atol=1e-6)
    assert [layer.shape[1] for layer in layers] == [24, 108, 150, 342]


def test_layers_that_overwrite_their_input_do_not_change_a_feature_layer():
    network = plain().eval()
    _, (before, after) = feature_layer_outputs(network, IMAGES, ["0", "1"])
    raw = F.conv2d(IMAGES, network[0].weight, network[0].bias)
    torch.testing.assert_close(before, raw.mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after, raw.relu().mean((2, 3)), rtol=1e-5, atol=1e-6)
    rows = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)).eval()
    _, (before,) = feature_layer_outputs(rows, IMAGES, ["1"])
    assert (before < 0).any()


def test_spreads_are_numpy_s_standard_deviations_of_each_image_and_channel():
    maps = torch.rand(3, 4, 5, 6, dtype=torch.float64) + 1e3  # far from zero: a difference of squares would be off
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(120, 2).double())
    found = FeatureSpreadProbe(["0"])(network, maps)
    assert found[:, :4].numpy() == pytest.approx(maps.numpy().mean(axis=(2, 3)), rel=1e-12)
    assert found[:, 4:].numpy() == pytest.approx(maps.numpy().std(axis=(2, 3)), rel=1e-10)
    tokens = maps.flatten(2).mT.contiguous()
    again = FeatureSpreadProbe(["0"])(network, tokens)
    assert again.numpy() == pytest.approx(found.numpy(), rel=1e-12)


def test_tokens_are_averaged_over_tokens_and_rows_stay():
    network = Tokens().eval()
    logits, (patches, encoder, penultimate) = feature_layer_outputs(network, IMAGES, feature_layer_names(network))
    assert patches.shape == encoder.shape == penultimate.shape == (3, 6)
    torch.testing.assert_close(penultimate, network.heads[0](encoder))
    torch.testing.assert_close(logits, network.heads[1](penultimate))


def test_one_feature_layer_alone_is_the_same_and_leaves_no_trace():
    network, ran = resnet20().eval(), []
    network.linear.register_forward_hook(lambda *_: ran.append("linear"))
    for name in (*RESNET[:4], PENULTIMATE):
        with torch.no_grad():
            ran.clear()
            alone = feature_layer_output(network, IMAGES, name)
            assert ran == (["linear"] if name == PENULTIMATE else [])  # it stops at the feature layer
            _, (together,) = feature_layer_outputs(network, IMAGES, [name])
            assert torch.equal(alone, together)
            assert network(IMAGES).shape == (3, 10)


def test_a_network_that_catches_errors_cannot_hold_up_one_feature_layer():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            try:
                return self.first(images)
            except Exception:
                return images

    network = Careful()
    assert feature_layer_output(network, IMAGES, "first").shape == (3, 4)


def test_gradients_flow_from_feature_layers_to_images():
    network, images = resnet20().double().eval(), IMAGES.double().requires_grad_()
    _, layers = feature_layer_outputs(network, images, ["layer1", PENULTIMATE])
    (gradient,) = torch.autograd.grad(layers[0].sum() + layers[1].square().sum(), images)
    features = network.layer1(network.relu(network.bn1(network.conv1(images))))
    last = network.layer3(network.layer2(features))
    (expected,) = torch.autograd.grad(features.mean((2, 3)).sum() + last.mean((2, 3)).square().sum(), images)
    torch.testing.assert_close(gradient, expected)


class Shared(nn.Module):
    """Runs one activation twice, gives a tuple from one layer and one row less from another."""

    def __init__(self):
        super().__init__()
        self.act, self.pair, self.halved = nn.ReLU(), nn.LSTM(4, 4), nn.Identity()
        self.linear, self.aside = nn.Linear(4, 4), nn.Conv2d(1, 1, 1)

    def forward(self, images):
        features = self.act(self.act(images.mean((2, 3)).repeat(1, 2)[:, :4]))
        self.halved(features[1:])
        return self.linear(self.pair(features)[0])


def test_feature_layers_that_give_no_row_an_image_are_refused():
    network = Shared().eval()
    for name, words in (
        ("layer9", "modules of the network, or penultimate. Got `layers = ['layer9']` with 'layer9'. Its"),
        ("act", "modules that run once on a batch and give a row for each of its 3 images. Got 2 outputs from"),
        ("aside", "Got 0 outputs from 'aside'. Name another module."),
        ("halved", "Got 2 rows from 'halved'. Name another module."),
        ("pair", "`layers` should give a tensor [N, C, ...] each. Got a tuple from 'pair'. Name another module."),
    ):
        with pytest.raises(Refusal, match=re.escape(words)):
            feature_layer_outputs(network, IMAGES, [name])
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with pytest.raises(Refusal, match=re.escape("The network should end in an nn.Linear, whose input are its")):
        feature_layer_outputs(nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten()), IMAGES, [PENULTIMATE])
    with pytest.raises(Refusal, match=re.escape("should have children with parameters or an nn.Linear. Got a Flatten")):
        feature_layer_names(nn.Flatten())
    for layers in ([], ["relu", "relu"]):
        words = f"`layers` should name different modules, at least one. Got `layers = {layers}`. Leave it out"
        with pytest.raises(Refusal, match=re.escape(words)):
            FeatureProbe(layers)


def test_feature_probe_puts_feature_layers_side_by_side_and_names_their_channels():
    network, probe = CifarResNet(1), FeatureProbe()
    assert (probe.name, probe.names(network)) == ("features/layers", [])
    values = probe(network, IMAGES)
    columns = columns_by_layer(probe.names(network))
    assert {layer: len(index) for layer, index in columns.items()} == {
        "relu": 16,
        "layer1": 16,
        "layer2": 32,
        "layer3": 64,
    }
    with torch.no_grad():
        layers = feature_layer_outputs(network.eval(), IMAGES, feature_layer_names(network))[1]
    for layer, index in zip(layers, columns.values(), strict=True):
        torch.testing.assert_close(values[:, index], layer, rtol=0, atol=0)


def test_feature_layers_of_a_user_s_own_are_another_column():
    probe = FeatureProbe(["layer1.0", PENULTIMATE])
    assert probe.name == "features/layer1.0+penultimate"
    assert probe(CifarResNet(1), IMAGES).shape == (3, 16 + 64)
    names = probe.names(CifarResNet(1))
    assert (names[15], names[16]) == ("layer1.0.15", "penultimate.0")
    assert columns_by_layer(names) == {"layer1.0": list(range(16)), PENULTIMATE: list(range(16, 80))}
    assert probe.describe() != FeatureProbe(["layer1.0"]).describe()


def test_penultimate_probe_gives_the_input_of_the_last_linear():
    network, probe = Normalized(plain(), [0.5] * 3, [0.5] * 3), PenultimateProbe()
    values = probe(network, IMAGES)
    assert (probe.name, probe.names(network), values.requires_grad) == ("features/penultimate", [], False)
    torch.testing.assert_close(network.network[3](values), network(IMAGES))


def test_probes_of_feature_layers_and_logits_share_a_forward_pass(monkeypatch):
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # else one in a hundred is compared
    network, calls = CifarResNet(1, num_classes=4).eval(), []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    of_features = [FeatureProbe(), LogitsProbe(), PenultimateProbe()]
    of_gradients = [GradientProbe(AllOnes()), GradientProbe(Predicted())]
    squared_gradient_norms(network, IMAGES)  # the first call looks the network over
    for probes, passes in ((of_features, 1), (of_gradients, 1), ([*of_features, *of_gradients], 2)):
        expected = {probe.name: probe(network, IMAGES) for probe in probes}
        calls.clear()
        reading = read_probes(probes, network, IMAGES)
        assert len(calls) == passes
        assert list(reading.values) == list(expected)
        for name, values in expected.items():
            torch.testing.assert_close(reading.values[name], values, rtol=1e-5, atol=1e-6)


def test_features_that_are_not_finite_are_refused_with_their_number():
    network = nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten(), nn.Linear(2, 2), nn.Hardtanh())
    images = IMAGES.clone()
    images[1] = float("inf")
    with torch.no_grad():
        network[0].weight.abs_()
        network[2].weight.abs_()
    words = (
        "The network's features in '0' should be finite. Got NaN or infinity in 1 of 3 rows: 1. Look at these images"
    )
    with pytest.raises(Refusal, match=re.escape(words)):
        FeatureProbe(["0"])(network, images)
    network[3] = nn.Identity()
    with pytest.raises(Refusal, match="logits should be finite"):
        FeatureProbe(["0"])(network, images)
