"""Wrappers of a network: its pixel statistics before it, and a second logit beside a single one."""

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, logits_in


class Normalized(nn.Module):
    """Normalise pixels in [0, 1] by `mean` and `std`, then apply `network`.

    The statistics are configuration, not weights: they are buffers that follow the device and the dtype but are not
    part of the state dict, so that plain weights of `network` need no extra keys.

    Args:
        network: Any classifier of normalised images `[N, C, H, W]`.
        mean: Mean of each channel, in pixels of [0, 1]; C values.
        std: Standard deviation of each channel, in pixels of [0, 1]; C values, each above zero.

    Example:
        >>> network = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), mean=[0.5] * 3, std=[0.25] * 3)
        >>> network(torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        _check_statistics(mean, std)
        self.network = network
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, num_classes]` of float images `[N, C, H, W]` with pixels in [0, 1]; others are refused."""
        self._check(images)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

    def _check(self, images: Tensor) -> None:
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise Refusal(
                f"`images` should be [N, {channels}, H, W], one channel for each of the {channels} values of `mean`. "
                f"Got `images.shape = {list(images.shape)}`. Convert the images (RGB or greyscale), or give `mean` and "
                "`std` one value per channel."
            )
        if not images.is_floating_point():
            raise Refusal(
                f"`images` should be floating point with pixels in [0, 1]. Got `images.dtype = {images.dtype}`. "
                "Divide 8-bit pixels by 255."
            )


class TwoLogits(nn.Module):
    """A binary classifier with one logit z, sigmoid(z) the probability of class 1, as one with two logits [0, z].

    Softmax and cross entropy of [0, z] are sigmoid and binary cross entropy of z, and a loss's gradient in the weights
    is that in z of the same loss of [0, z]. The mean over classes in `gradients.AllOnes` then counts two classes, of
    which class 0 has no weights.

    Args:
        network: Images in, one logit for each out, [N, 1] or [N].

    Example:
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


def two_logits(logits: Tensor) -> Tensor:
    """Put a zero before a single logit, [N, 1] or [N] to [N, 2]; others stay as they are."""
    if isinstance(logits, Tensor) and logits.ndim == 1:
        logits = logits[:, None]
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


_LARGEST = 1e6  # of pixels in [0, 1]; float32 images would all be the same behind it


def _check_statistics(mean: list[float], std: list[float]) -> None:
    if not mean or len(mean) != len(std):
        raise Refusal(
            "`mean` and `std` should hold one value for each image channel. "
            f"Got `mean = {mean}` and `std = {std}`. Give both the same number of values, three for RGB."
        )
    if not (_per_channel(mean).abs() <= _LARGEST).all():  # false for NaN
        raise Refusal(
            f"`mean` should be finite. Got `mean = {mean}`. Give the training images' mean in pixels of [0, 1]."
        )
    if not ((_per_channel(std) <= _LARGEST) & (_per_channel(std) > 0)).all():  # as stored: 1e-50 would be zero
        raise Refusal(
            f"`std` should be above zero in every channel. Got `std = {std}`. Give the training images' standard "
            "deviation in pixels of [0, 1], or 1.0 for a channel that should only be shifted."
        )


def _per_channel(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype()).view(-1, 1, 1)
