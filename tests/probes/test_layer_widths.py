"""Widths of the feature layers of thirty families, as their papers and configurations have them."""

from functools import partial

import pytest
import torch
import torchvision.models
from pytorch_ood.model import WideResNet
from torch import nn

from lightning_gradood.networks import densenet_bc_100_12, resnet20, resnet34
from lightning_gradood.probes import PENULTIMATE, feature_layer_names, feature_layer_outputs


class Listed(nn.Module):
    """EfficientNet-Lite0's layout with one convolution a block: blocks of seven stages in one ModuleList."""

    def __init__(self):
        super().__init__()
        stages = [(16, 1, 1), (24, 2, 2), (40, 2, 2), (80, 3, 2), (112, 3, 1), (192, 4, 2), (320, 1, 1)]
        widths = [32] + [width for width, number, _ in stages for _ in range(number)]
        strides = [stride if first == 0 else 1 for _, number, stride in stages for first in range(number)]
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32)
        pairs = zip(widths, widths[1:], strides, strict=False)
        self._blocks = nn.ModuleList([nn.Conv2d(one, other, 3, stride, 1) for one, other, stride in pairs])
        self._conv_head, self._bn1, self._fc = nn.Conv2d(320, 1280, 1), nn.BatchNorm2d(1280), nn.Linear(1280, 10)

    def forward(self, images):
        features = self._bn0(self._conv_stem(images)).relu()
        for block in self._blocks:
            features = block(features).relu()
        return self._fc(self._bn1(self._conv_head(features)).relu().mean((2, 3)))


class Tokens(nn.Module):
    """DeiT's and DINO's layout: patches to tokens, blocks in a ModuleList, the class token after a norm."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.cls_token = nn.Conv2d(3, 192, 16, 16), nn.Parameter(torch.zeros(1, 1, 192))
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(192, 3, 384, batch_first=True) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 10)

    def forward(self, images):
        tokens = self.patch_embed(images).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class OpenOOD(nn.Module):
    """The layout of OpenOOD's ResNet18_32x32: no child `relu`, pooled features are also the last stage's averages."""

    def __init__(self):
        super().__init__()
        inner = torchvision.models.resnet18(num_classes=10)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1), inner.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = inner.layer1, inner.layer2, inner.layer3, inner.layer4
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), inner.fc

    def forward(self, images):
        features = self.bn1(self.conv1(images)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        return self.fc(self.avgpool(features).flatten(1))


WRN = partial(WideResNet, 10, 40, 2)
BOTTLENECKS = [64, 256, 512, 1024, 2048]
INCEPTION = [32, 32, 64, 80, 192, 256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]
GOOGLENET = [64, 64, 192, 256, 480, 512, 512, 512, 528, 832, 832, 1024]
FAMILIES = {
    "alexnet": [256, 4096], "vgg11_bn": [512, 4096], "resnet18": [64, 64, 128, 256, 512], "resnet50": BOTTLENECKS,
    "resnext50_32x4d": BOTTLENECKS, "wide_resnet50_2": BOTTLENECKS, "squeezenet1_1": [512],
    "densenet121": [64, 128, 256, 512, 1024], "inception_v3": INCEPTION, "googlenet": GOOGLENET,
    "shufflenet_v2_x1_0": [24, 116, 232, 464, 1024], "mobilenet_v2": [1280], "mobilenet_v3_small": [576, 1024],
    "mnasnet1_0": [1280], "efficientnet_b0": [1280], "efficientnet_v2_s": [1280], "regnet_x_400mf": [32, 400],
    "regnet_y_400mf": [32, 440], "vit_b_16": [768, 768, 768], "swin_t": [768, 768], "swin_v2_t": [768, 768],
    "maxvit_t": [64, 64, 128, 256, 512, 512], "convnext_tiny": [768, 768],
    resnet20: [16, 16, 32, 64], resnet34: [64, 64, 128, 256, 512], densenet_bc_100_12: [24, 108, 150, 342],
    WRN: [16, 32, 64, 128, 128, 128],
    Listed: [32, 32, 16, 24, 40, 80, 112, 192, 320, 1280, 1280, 1280], Tokens: [192, 192, 192, 192],
    OpenOOD: [64, 64, 64, 128, 256, 512],
}  # fmt: skip
SIZES = {"inception_v3": 96, "maxvit_t": 224, WRN: 32}
SETTINGS = {"vit_b_16": {"image_size": 64}}
SETTINGS |= {family: {"init_weights": False} for family in ("inception_v3", "googlenet", "vgg11_bn")}


@pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda one: one if isinstance(one, str) else getattr(one, "__name__", "wrn")
)
@torch.no_grad()
def test_feature_layers_have_the_published_widths_and_none_stands_twice(family):
    size = SIZES.get(family, 64)
    build = getattr(torchvision.models, family) if isinstance(family, str) else family
    network, images = build(**SETTINGS.get(family, {})).eval(), torch.rand(2, 3, size, size)
    names = feature_layer_names(network, images)
    _, outputs = feature_layer_outputs(network, images, names)
    assert [output.shape[1] for output in outputs] == FAMILIES[family]
    last = [output for output in outputs if output.shape == outputs[-1].shape][-2:]
    assert PENULTIMATE not in names or len(last) < 2 or not torch.allclose(*last, rtol=1e-4)
