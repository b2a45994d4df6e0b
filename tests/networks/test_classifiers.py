"""The classifiers have the paper's sizes, compute what their definitions say, and are as accurate as their weights."""

import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import (
    CifarResNet,
    Normalized,
    densenet_bc_100_12,
    efficientnet_lite0,
    efficientnet_lite2,
    load_weights,
    resnet18,
    resnet20,
    resnet34,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZES = {  # parameter tensors, parameters
    resnet18: (62, 11_173_962), resnet34: (110, 21_282_122), resnet20: (59, 269_722), densenet_bc_100_12: (299, 769_162),
    lambda: CifarResNet(9): (167, 853_018),
}  # fmt: skip


def test_sizes_are_those_of_the_literature():
    for build, (tensors, parameters) in SIZES.items():
        numbers = [parameter.numel() for parameter in build().parameters()]
        assert (len(numbers), sum(numbers)) == (tensors, parameters)


def test_a_network_of_another_package_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(Refusal, match=r"`model.network` = efficientnet_lite0 should .*pip install efficientnet_lite"):
        efficientnet_lite0()
    package = SimpleNamespace(EfficientNet=SimpleNamespace(from_name=lambda name, num_classes: (name, num_classes)))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", package)
    assert [efficientnet_lite0(7), efficientnet_lite2(7)] == [("efficientnet-lite0", 7), ("efficientnet-lite2", 7)]


def test_classes_and_channels_are_free_and_the_stem_keeps_resolution_and_variance():
    for build in (resnet18, resnet34, resnet20, densenet_bc_100_12):
        torch.manual_seed(0)
        for num_classes, channels, size in ((10, 3, 32), (4, 1, 28)):
            network = build(num_classes, channels).eval()
            stem = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
            shapes = []
            stem.register_forward_hook(lambda module, given, output, shapes=shapes: shapes.append(output.shape[2:]))
            with torch.no_grad():
                assert network(torch.rand(2, channels, size, size)).shape == (2, num_classes)
            assert shapes == [(size, size)]
            # torchvision: fan-in there, fan-out in ResNet
            fan = 9 * (channels if build is densenet_bc_100_12 else stem.out_channels)
            # Kaiming's for ReLU, within six standard errors
            spread = 6 / math.sqrt(2 * stem.weight.numel())
            assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=spread)


def test_resnet20_is_he_et_al_s_formula():
    network = _with_lively_batch_norm(resnet20())
    weights = network.state_dict()

    def normed(features, name):
        moments = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(features, *moments, weights[f"{name}.weight"], weights[f"{name}.bias"])

    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    features = normed(F.conv2d(images, weights["conv1.weight"], padding=1), "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = normed(F.conv2d(features, weights[f"{name}.conv1.weight"], None, stride, 1), f"{name}.bn1").relu()
            out = normed(F.conv2d(out, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            shortcut = torch.zeros_like(out)
            start = (out.shape[1] - features.shape[1]) // 2
            shortcut[:, start : start + features.shape[1]] = features[:, :, ::stride, ::stride]
            features = (out + shortcut).relu()
    expected = features.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]
    torch.testing.assert_close(network(images), expected)


def test_densenet_is_huang_et_al_s_formula():
    network = _with_lively_batch_norm(densenet_bc_100_12())
    tensors = iter([value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")])

    def normed(features):
        weight, bias, mean, variance = (next(tensors) for _ in range(4))
        return F.batch_norm(features, mean, variance, weight, bias).relu()

    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    features = F.conv2d(images, next(tensors), padding=1)
    for block in range(3):
        for _ in range(16):
            new = F.conv2d(normed(features), next(tensors))
            new = F.conv2d(normed(new), next(tensors), padding=1)
            features = torch.cat([features, new], 1)
        if block < 2:
            features = F.avg_pool2d(F.conv2d(normed(features), next(tensors)), 2)
    expected = F.linear(F.avg_pool2d(normed(features), 8).flatten(1), next(tensors), next(tensors))
    assert next(tensors, None) is None
    torch.testing.assert_close(network(images), expected)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data beside the repository")
def test_trained_weights_classify_real_images():
    archive = np.load(SHARED / "cifar10_test.npz", allow_pickle=False)
    chosen = np.random.default_rng(0).permutation(len(archive["labels"]))[:300]
    files, starts = archive["jpeg"], archive["offsets"]
    pictures = [Image.open(io.BytesIO(files[starts[row] : starts[row + 1]].tobytes())).convert("RGB") for row in chosen]
    images = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    for build, file, accuracy in ((resnet18, "cifar10_resnet18.pt", 0.877), (resnet20, "cifar10_resnet20.pt", 0.883)):
        network = Normalized(build(num_classes=10), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).eval()
        load_weights(network, SHARED / file)
        with torch.no_grad():
            predictions = torch.cat([network(batch).argmax(1) for batch in images.split(100)])
        # three binomial standard deviations of 300 images are 0.057
        assert (predictions.numpy() == archive["labels"][chosen]).mean() == pytest.approx(accuracy, abs=0.057)


def _with_lively_batch_norm(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2)
    return network.double().eval()
