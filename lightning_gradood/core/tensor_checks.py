"""Refusals of images and outputs: what is no batch, has other values than pixels, or is not finite."""

import reprlib

import torch
from torch import Tensor

from lightning_gradood.core.errors import NotFinite, Refusal


def check_batch(images: Tensor) -> None:
    """Refuse what is not a dense floating point tensor [N, ...] of at least one image."""
    dense = isinstance(images, Tensor) and images.layout == torch.strided and not images.is_quantized
    if not dense or images.ndim < 2 or images.shape[0] == 0 or not images.is_floating_point():
        got = f"{list(images.shape)}, {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise Refusal(
            f"`images` should be a dense tensor [N, ...] of at least one image, floating point pixels in [0, 1]. Got {got}. "
            "Convert 8-bit pixels with `images.float() / 255`; give one image a leading dimension of 1."
        )


def check_images(images: Tensor) -> None:
    """Refuse images that are not a batch of float32 or float64 pixels in [0, 1]."""
    check_batch(images)
    if images.dtype not in (torch.float32, torch.float64):
        raise Refusal(f"`images` should be float32 or float64. Got {images.dtype}. Convert them with `images.float()`.")
    low, high = map(float, images.aminmax())
    if not (low >= 0 and high <= 1):  # true for NaN
        raise Refusal(
            f"`images` should be pixels in [0, 1]. Got values from {low:.6g} to {high:.6g}. "
            "Divide 8-bit pixels by 255, and put the normalisation into the network, as `networks.Normalized` does."
        )


def check_logits_shape(output: object, number: int, classes: int = 1) -> None:
    """Refuse an output that is not one row of at least `classes` logits for each of `number` images."""
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == number and output.shape[1] >= classes:
        return
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise Refusal(
        f"the network's output should be logits [N, classes], a row for each image, classes at least {classes}. "
        f"Got `output = {got}` for a batch of {number}. Wrap the network so that forward(images) returns its logits alone."
    )


def check_finite_rows(values: Tensor, what: str) -> None:
    """Raise `NotFinite` with the rows of values [N, ...] that hold a NaN or an infinity."""
    if torch.compiler.is_compiling():  # torch.export has no values yet
        return
    bad = (~torch.isfinite(values.detach().flatten(1)).all(1)).nonzero().flatten().tolist()
    if bad:
        raise NotFinite(
            f"{what} should be finite. Got NaN or infinity in {len(bad)} of {values.shape[0]} rows: {reprlib.repr(bad)[1:-1]}. "
            "Look at these images and at the network's weights.",
            bad,
        )
