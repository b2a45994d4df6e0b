"""Classifiers for 32×32 images: ResNet-18 and -34, ResNet-20 for CIFAR, DenseNet-BC-100-12."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock, ResNet
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import PositiveInt


def densenet_bc_100_12(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> DenseNet:
    """Build DenseNet-BC-100-12 for small images: 299 parameter tensors, 0.77 million parameters.

    Three blocks of 16 layers (a bottleneck 1×1 convolution to 48 channels and a 3×3 one that adds 12), transitions that
    halve channels and resolution, a stem of one 3×3 convolution to 24 channels. No dropout. From normalised images
    `[N, channels, H, W]` to logits `[N, num_classes]`, randomly initialised, as all networks of this file.

    Reference:
        Huang et al., Densely Connected Convolutional Networks, 2017, section 4.2.

    Example:
        >>> sum(parameter.numel() for parameter in densenet_bc_100_12().parameters())
        769162
    """
    network = DenseNet(growth_rate=12, block_config=(16, 16, 16), num_init_features=24, num_classes=num_classes)
    stem = nn.Conv2d(channels, 24, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight)  # as torchvision's own convolutions
    network.features.conv0 = stem
    del network.features.norm0, network.features.relu0, network.features.pool0
    return network


def resnet18(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> ResNet:
    """Build ResNet-18 for small images: 62 parameter tensors, 11.2 million parameters, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016; the stem is the field's for CIFAR.

    Example:
        >>> sum(1 for _ in resnet18().parameters())
        62
    """
    return _small_image_resnet([2, 2, 2, 2], num_classes, channels)


def resnet34(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> ResNet:
    """Build ResNet-34 for small images: 110 parameter tensors, 21.3 million parameters, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016; the stem is the field's for CIFAR.

    Example:
        >>> sum(1 for _ in resnet34().parameters())
        110
    """
    return _small_image_resnet([3, 4, 6, 3], num_classes, channels)


def _small_image_resnet(blocks: list[int], num_classes: int, channels: int) -> ResNet:
    """Exchange the stem for one that keeps the resolution: 3×3, stride 1, no max-pool."""
    network = ResNet(BasicBlock, blocks, num_classes=num_classes)
    network.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    # as torchvision's own convolutions
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def resnet20(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> "CifarResNet":
    """Build ResNet-20 for small images: 59 parameter tensors, 0.27 million parameters, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, option A.

    Example:
        >>> sum(parameter.numel() for parameter in resnet20().parameters())
        269722
    """
    return CifarResNet(3, num_classes, channels)


class CifarResNet(nn.Module):
    """ResNet of depth 6·n + 2 for small images, n being `blocks_per_stage` in each of the three stages.

    From normalised images `[N, channels, H, W]` to logits `[N, num_classes]`.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, option A.

    Example:
        >>> resnet56 = CifarResNet(blocks_per_stage=9)
    """

    def __init__(self, blocks_per_stage: PositiveInt, num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks_per_stage, stride=1)
        self.layer2 = _stage(16, 32, blocks_per_stage, stride=2)
        self.layer3 = _stage(32, 64, blocks_per_stage, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(self.avgpool(features).flatten(1))
        return logits


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut without parameters: every second pixel, new channels zero (option A)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = _conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.stride = stride
        self.new_channels = channels_out - channels_in

    def forward(self, features: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        before = self.new_channels // 2
        shortcut = F.pad(
            features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
        )
        out: Tensor = self.relu(residual + shortcut)
        return out


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(_Block(channels_out, channels_out, stride=1) for _ in range(blocks - 1)))


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
