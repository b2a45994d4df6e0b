"""The networks that are measured, by name, each with the size of its images."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_gradood.networks import densenet_bc_100_12, resnet18


class WideBlock(nn.Module):
    """Pre-activation block of a wide residual network."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.relu = nn.ReLU()
        same = channels_in == channels
        self.shortcut = None if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, convolve, twice; the shortcut starts after the first activation where the width changes."""
        active = self.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        return skip + self.conv2(self.relu(self.bn2(self.conv1(active))))


def wrn_40_2(num_classes: int = 10) -> nn.Module:
    """Zagoruyko and Komodakis' WRN-40-2: 2.2 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    channels = 16
    for width, stride in ((32, 1), (64, 2), (128, 2)):
        for block in range(6):
            layers.append(WideBlock(channels, width, stride if block == 0 else 1))
            channels = width
    layers += [nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes)]
    return nn.Sequential(*layers)


def vit_b_16() -> nn.Module:
    """torchvision's, but for its head of zeros, with which every gradient before the head is exactly zero."""
    network = torchvision.models.vit_b_16()
    nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
    return network


def vit_small_patch16_224() -> nn.Module:
    """timm's ViT-S/16, random weights; its head is not zero.

    Raises:
        ImportError: if timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("vit_small_patch16_224 is timm's: pip install timm, or leave it out of --networks") from error
    network: nn.Module = timm.create_model("vit_small_patch16_224")
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (resnet18, 32),
    "densenet_bc_100_12": (densenet_bc_100_12, 32),
    "wrn_40_2": (wrn_40_2, 32),
    "resnet50": (torchvision.models.resnet50, 224),
    "vit_b_16": (vit_b_16, 224),
    "vit_small_patch16_224": (vit_small_patch16_224, 224),
    "convnext_tiny": (torchvision.models.convnext_tiny, 224),
    "mobilenet_v3_large": (torchvision.models.mobilenet_v3_large, 224),
    "efficientnet_b0": (torchvision.models.efficientnet_b0, 224),
    "swin_t": (torchvision.models.swin_t, 224),
    "vgg16": (torchvision.models.vgg16, 224),
}


def out_of_place(network: nn.Module) -> nn.Module:
    """Rewrite in-place activations and additions, which the peers' module hooks do not survive; same function."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
        if isinstance(module, DenseNet):
            module.forward = _dense.__get__(module)
        if isinstance(module, BasicBlock):
            module.forward = _basic_block.__get__(module)
        if isinstance(module, Bottleneck):
            module.forward = _bottleneck.__get__(module)
    return network


def _dense(self: DenseNet, x: Tensor) -> Tensor:
    x = F.relu(self.features(x))
    return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _basic_block(self: BasicBlock, x: Tensor) -> Tensor:
    skip = x if self.downsample is None else self.downsample(x)
    return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + skip)


def _bottleneck(self: Bottleneck, x: Tensor) -> Tensor:
    skip = x if self.downsample is None else self.downsample(x)
    x = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
    return self.relu(self.bn3(self.conv3(x)) + skip)
