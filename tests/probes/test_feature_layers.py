"""Feature layers: the right places, averaged as the definition says, read in one pass that leaves no trace."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from asserts import assert_refused
from torch import nn
from torch.testing import assert_close

from lightning_gradood.networks import CifarResNet, Normalized, TwoLogits, densenet_bc_100_12, resnet18, resnet20
from lightning_gradood.probes import (
    PENULTIMATE,
    FeatureProbe,
    FeatureSpreadProbe,
    PenultimateProbe,
    columns_by_layer,
    feature_layer_names,
    feature_layer_outputs,
    linear_head,
    read_probes,
)
from lightning_gradood.probes.feature_layers import feature_layer_output

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.encoder = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.heads = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4))

    def forward(self, images):
        tokens = self.encoder(self.patches(images).flatten(2).transpose(1, 2))
        return self.heads(tokens.mean(dim=1))


def plain():
    """A network without any of the names that are looked for; a layer overwrites its input."""
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(5 * 14 * 14, 4))


def normalized(network):
    return Normalized(network, [0.5] * 3, [0.5] * 3)


class Listed(nn.Module):
    """Its stages stand in a ModuleList, one layer is silent in evaluation, and a convolution classifies."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, 2), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 8, 3, 2)]
        )
        self.auxiliary, self.classifier = nn.Linear(8, 4), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        for block in self.blocks:
            images = block(images)
        return self.classifier(images.relu()).mean((2, 3))


class ChannelsLast(nn.Module):
    """Gives maps [N, H, W, C] from its body, as Swin does, whose averages are the penultimate features."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 7, 4, 4), nn.Sequential(nn.Linear(7, 5), nn.GELU())
        self.head = nn.Linear(5, 4)

    def forward(self, images):
        return self.head(self.body(self.stem(images).permute(0, 2, 3, 1)).mean((1, 2)))


DENSE = [f"features.transition{number}" for number in (1, 2, 3)]
USUAL = [
    (resnet18, RESNET), (resnet20, RESNET[:4]), (lambda: torchvision.models.resnet50(weights=None), RESNET),
    (lambda: normalized(resnet18()), [f"network.{name}" for name in RESNET]),
    (densenet_bc_100_12, ["features.conv0", *DENSE[:2], PENULTIMATE]),
    (lambda: torchvision.models.densenet121(weights=None), ["features.relu0", *DENSE, PENULTIMATE]),
    (lambda: torchvision.models.mobilenet_v2(weights=None), ["features"]),
    (lambda: torchvision.models.squeezenet1_1(weights=None), ["features"]),
    (lambda: torchvision.models.swin_t(weights=None), ["features", "norm"]),
    (Tokens, ["patches", "encoder", PENULTIMATE]), (plain, ["0", PENULTIMATE]),
    (lambda: normalized(plain()), ["network.0", PENULTIMATE]), (lambda: nn.Linear(16, 2), [PENULTIMATE]),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), [PENULTIMATE]),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten()), ["0"]),
    (Listed, ["blocks.0", "blocks.2", "blocks.3", PENULTIMATE]), (ChannelsLast, ["stem", "body"]),
]  # fmt: skip


def test_the_usual_feature_layers_are_said_where_they_are_no_names_of_a_paper(capsys):
    images = torch.rand(2, 3, 64, 64)
    sizes = {"Linear": IMAGES[:, 0], "Sequential": IMAGES, "Normalized": IMAGES}
    found = []
    for build, _ in USUAL:
        network = build()
        small = type(network).__name__ in sizes and not hasattr(getattr(network, "network", network), "layer1")
        found.append(feature_layer_names(network, sizes[type(network).__name__] if small else images))
    assert found == [names for _, names in USUAL]
    assert "Feature layers: blocks.0, blocks.2, blocks.3, penultimate\n" in capsys.readouterr().err


@torch.no_grad()
def test_channels_are_averaged_over_places_on_whichever_axis_they_stand():
    network = ChannelsLast().eval()
    _, (stem, body, last) = feature_layer_outputs(network, IMAGES, ["stem", "body", PENULTIMATE])
    maps = network.stem(IMAGES)
    assert_means([stem, body], [maps, network.body(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)])
    assert_close(last, body)
    spread = FeatureSpreadProbe(["body"])(network, IMAGES)
    assert_close(spread[:, 5:], network.body(maps.permute(0, 2, 3, 1)).flatten(1, 2).std(1, correction=0))
    swin = torchvision.models.swin_t(weights=None).eval()
    _, layers = feature_layer_outputs(swin, torch.rand(1, 3, 64, 64), ["features.1", "features.5", "features.7"])
    assert [layer.shape[1] for layer in layers] == [96, 384, 768]


def assert_means(found, maps):
    for layer, features in zip(found, maps, strict=True):
        assert_close(layer, features.mean((2, 3)), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_feature_layers_are_the_means_of_a_forward_by_hand():
    network = resnet18().eval()
    logits, layers = feature_layer_outputs(network, IMAGES, [*feature_layer_names(network, IMAGES), PENULTIMATE])
    maps = [network.relu(network.bn1(network.conv1(IMAGES)))]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        maps.append(stage(maps[-1]))
    assert_means(layers, [*maps, maps[-1]])
    assert_close(logits, network.fc(layers[-1]), rtol=1e-5, atol=1e-6)
    network = densenet_bc_100_12().eval()  # whose last one is read after its norm and activation
    _, layers = feature_layer_outputs(network, IMAGES, feature_layer_names(network, IMAGES))
    assert_means([layers[0], layers[-1]], [network.features.conv0(IMAGES), F.relu(network.features(IMAGES))])
    network = plain().eval()  # where a layer overwrites what is read
    raw = F.conv2d(IMAGES, network[0].weight, network[0].bias)
    assert_means(feature_layer_outputs(network, IMAGES, ["0", "1"])[1], [raw, raw.relu()])
    rows = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)).eval()
    assert (feature_layer_outputs(rows, IMAGES, ["1"])[1][0] < 0).any()


def test_spreads_are_numpy_s_standard_deviations_of_each_image_and_channel():
    maps = torch.rand(3, 4, 5, 6, dtype=torch.float64) + 1e3  # far from zero: a difference of squares would be off
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(120, 2).double())
    found = FeatureSpreadProbe(["0"])(network, maps)
    assert found[:, :4].numpy() == pytest.approx(maps.numpy().mean(axis=(2, 3)), rel=1e-12)
    assert found[:, 4:].numpy() == pytest.approx(maps.numpy().std(axis=(2, 3)), rel=1e-10)
    tokens = maps.flatten(2).mT.contiguous()
    assert FeatureSpreadProbe(["0"])(network, tokens).numpy() == pytest.approx(found.numpy(), rel=1e-12)


@torch.no_grad()
def test_one_feature_layer_alone_is_the_same_and_leaves_no_trace():
    network, ran = resnet20().eval(), []
    feature_layer_names(network, IMAGES)  # the pass that finds them comes once for a network
    network.linear.register_forward_hook(lambda *_: ran.append("linear"))
    for name in (*RESNET[:4], PENULTIMATE):
        ran.clear()
        alone = feature_layer_output(network, IMAGES, name)
        assert ran == (["linear"] if name == PENULTIMATE else [])  # it stops at the feature layer
        _, (together,) = feature_layer_outputs(network, IMAGES, [name])
        assert torch.equal(alone, together)
        assert network(IMAGES).shape == (3, 10)


class Named(nn.Module):
    """Gives a dict."""

    def forward(self, features):
        return {"features": features}


class Shared(nn.Module):
    """Runs one activation twice, gives a dict from one layer and one row less from another."""

    def __init__(self):
        super().__init__()
        self.act, self.named, self.halved = nn.ReLU(), Named(), nn.Identity()
        self.linear, self.aside = nn.Linear(4, 4), nn.Conv2d(1, 1, 1)

    def forward(self, images):
        features = self.act(self.act(images.mean((2, 3)).repeat(1, 2)[:, :4]))
        self.halved(features[1:])
        return self.linear(self.named(features)["features"])


def test_feature_layers_that_give_no_finite_row_an_image_are_refused():
    shared = Shared().eval()
    unread = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    spilling = nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten(), nn.Linear(2, 2), nn.Hardtanh())
    infinite = IMAGES.clone()
    infinite[1] = float("inf")
    with torch.no_grad():
        spilling[0].weight.abs_(), spilling[2].weight.abs_()
    cases = (
        (shared, "layer9", "modules of the network, or penultimate. Got 'layer9'. Its"),
        (shared, "act", "run once on a batch and give a row for each of its 3 images; .* [3, 3] rows from"),
        (shared, "aside", "Got outputs with [] rows from 'aside'. Name another module."),
        (shared, "halved", "Got outputs with [2] rows from 'halved'. Name another module."),
        (shared, "named", "should give a tensor [N, C, ...] each. Got a dict from 'named'. Name another module."),
        (unread, PENULTIMATE, "the last nn.Linear or convolution. Got outputs with [] rows from 'penultimate'"),
    )
    assert_refused(
        *((lambda of=of, name=name: feature_layer_outputs(of, IMAGES, [name]), words) for of, name, words in cases),
        (
            lambda: feature_layer_names(nn.Flatten(), IMAGES),
            "run layers with parameters before its logits. Got a Flatten",
        ),
        (lambda: FeatureProbe(["0"])(spilling, infinite), "features in '0' should be finite."),
        (lambda: FeatureProbe(["0"])(spilling[:3], infinite), "logits should be finite"),
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in shared.modules())


def test_feature_probes_put_feature_layers_side_by_side_and_name_their_channels():
    network, probe = CifarResNet(1), FeatureProbe(["layer1.0", PENULTIMATE])
    reading = read_probes([probe], network, IMAGES)
    columns = columns_by_layer(reading.names["features/layer1.0+penultimate"])
    assert columns == {"layer1.0": list(range(16)), PENULTIMATE: list(range(16, 80))}
    with torch.no_grad():
        layers = feature_layer_outputs(network.eval(), IMAGES, probe.layers)[1]
    for layer, index in zip(layers, columns.values(), strict=True):
        assert torch.equal(reading.values[probe.name][:, index], layer)
    network = normalized(plain())
    assert_close(network.network[3](PenultimateProbe()(network, IMAGES)), network(IMAGES))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "alexnet"])
def test_a_linear_head_gives_the_logits_of_the_penultimate_features(name):
    network = getattr(torchvision.models, name)(weights=None, num_classes=7).eval()
    images = torch.rand(2, 3, 64, 64)
    head = linear_head(network, images)
    features = PenultimateProbe()(network, images).double().numpy()
    np.testing.assert_allclose(head.logits(features), network(images).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_the_head_of_a_single_logit_is_that_of_two_classes_the_first_without_weights():
    network = TwoLogits(nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)))
    images = torch.rand(4, 3, 2, 2)
    head, features = linear_head(network, images), PenultimateProbe()(network, images).double().numpy()
    assert (head.weight.shape, head.weight[0].any(), head.bias[0]) == ((2, 8), False, 0)
    np.testing.assert_allclose(head.logits(features), network(images).detach().numpy(), atol=1e-6)


class _TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, images):
        return self.one(images.flatten(1)) + self.two(images.flatten(1))


@pytest.mark.parametrize("network", [_TwoBranches(), nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh())])
def test_a_network_whose_logits_are_no_linear_layer_is_refused_as_a_linear_head(network):
    call = partial(linear_head, network, torch.rand(2, 3, 2, 2))
    assert_refused((call, "should end in one linear layer.*Use methods that read logits"))
