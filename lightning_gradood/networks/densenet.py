"""torchvision's DenseNet in the shape of the paper's: DenseNet-BC, 100 layers, growth 12, for 32×32 images."""

from torch import nn
from torchvision.models.densenet import DenseNet


def densenet_bc_100_12(num_classes: int = 10, channels: int = 3) -> DenseNet:
    """Build DenseNet-BC-100-12 for small images: 299 parameter tensors, 0.77 million parameters.

    Three blocks of 16 layers (a bottleneck 1×1 convolution to 48 channels and a 3×3 one that adds 12), transitions that
    halve channels and resolution, a stem of one 3×3 convolution to 24 channels. No dropout.

    Args:
        num_classes: Number of classes, the width of the logits.
        channels: Number of image channels.

    Returns:
        A network from normalised images `[N, channels, H, W]` to logits `[N, num_classes]`, randomly initialised.

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
