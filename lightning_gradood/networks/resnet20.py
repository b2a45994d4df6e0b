"""He et al.'s ResNet-20 for CIFAR: three stages of 16, 32 and 64 channels, shortcuts without parameters."""

import torch.nn.functional as F
from torch import Tensor, nn


def resnet20(num_classes: int = 10, channels: int = 3) -> "CifarResNet":
    """Build ResNet-20 for small images: 59 parameter tensors, 0.27 million parameters.

    Args:
        num_classes: Number of classes, the width of the logits.
        channels: Number of image channels.

    Returns:
        A network from normalised images `[N, channels, H, W]` to logits `[N, num_classes]`, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, option A.

    Example:
        >>> sum(parameter.numel() for parameter in resnet20().parameters())
        269722
    """
    return CifarResNet(3, num_classes, channels)


class CifarResNet(nn.Module):
    """ResNet of depth 6·n + 2 for small images, with n blocks a stage.

    Args:
        blocks_per_stage: n, the number of residual blocks in each of the three stages.
        num_classes: Number of classes, the width of the logits.
        channels: Number of image channels.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, option A.

    Example:
        >>> resnet56 = CifarResNet(blocks_per_stage=9)
    """

    def __init__(self, blocks_per_stage: int, num_classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks_per_stage, stride=1)
        self.layer2 = _stage(16, 32, blocks_per_stage, stride=2)
        self.layer3 = _stage(32, 64, blocks_per_stage, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[N, num_classes]` of normalised images `[N, channels, H, W]`."""
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
