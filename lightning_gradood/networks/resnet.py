"""torchvision's ResNet with a stem for 32×32 images: the paper's ResNet-18, and ResNet-34."""

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet


def resnet18(num_classes: int = 10, channels: int = 3) -> ResNet:
    """Build ResNet-18 for small images: 62 parameter tensors, 11.2 million parameters.

    Args:
        num_classes: Number of classes, the width of the logits.
        channels: Number of image channels.

    Returns:
        A network from normalised images `[N, channels, H, W]` to logits `[N, num_classes]`, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016; the stem is the field's for CIFAR.

    Example:
        >>> sum(1 for _ in resnet18().parameters())
        62
    """
    return _small_image_resnet([2, 2, 2, 2], num_classes, channels)


def resnet34(num_classes: int = 10, channels: int = 3) -> ResNet:
    """Build ResNet-34 for small images: 110 parameter tensors, 21.3 million parameters.

    Args:
        num_classes: Number of classes, the width of the logits.
        channels: Number of image channels.

    Returns:
        A network from normalised images `[N, channels, H, W]` to logits `[N, num_classes]`, randomly initialised.

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
    # Initialised as torchvision's own convolutions are.
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
