"""Where float64 numbers are computed: on a tensor's own device, or on the host where that device has none (Apple's MPS).

Everything that leaves float32 goes through this file, so that a device without float64 never sees such a tensor. Where
there is float64, `to_float64_device` is the tensor itself, and nothing is different from plain torch.

    >>> import torch
    >>> to_float64(torch.ones(2)).dtype, cast_like(torch.ones(2, dtype=torch.float64), torch.zeros(1)).dtype
    (torch.float64, torch.float32)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
"""Types of devices on which a float64 tensor cannot exist."""

LOG_FLOOR = 1e-30
"""Added to a squared norm before its logarithm is taken: those of confident images underflow to zero."""

_TOGETHER = 64  # numbers that are added in float32 before their sums are: rounding grows with log₆₄ of all


def has_float64(device: torch.device) -> bool:
    """Whether tensors on this device may be float64."""
    return device.type not in WITHOUT_FLOAT64


def widest_float_dtype(device: torch.device) -> torch.dtype:
    """The dtype of a floating point number that loses as little as it can on this device."""
    return torch.float64 if has_float64(device) else torch.float32


def float64_device(device: torch.device) -> torch.device:
    """The device itself where it has float64, else the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def to_float64_device(tensor: Tensor) -> Tensor:
    """Return the tensor itself where its device has float64, else a copy on the CPU; any dtype, which is kept."""
    return tensor if has_float64(tensor.device) else tensor.cpu()


def to_float64(tensor: Tensor) -> Tensor:
    """Return a tensor of any dtype as float64, on its own device or the CPU; gradients flow back in its own dtype."""
    return to_float64_device(tensor).double()


def as_array(values: Any) -> np.ndarray:
    """Return numbers as a numpy array: a tensor's in float64 if they are floating point, whatever its dtype, device and graph.

    Args:
        values: a tensor, an array or a sequence.
    """
    if isinstance(values, Tensor):
        plain = values.detach().cpu()
        return np.asarray(plain.double() if plain.is_floating_point() else plain)
    return np.asarray(values)


def cast_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor in the dtype and on the device of `like`, rounded before it travels."""
    return tensor.to(like.dtype).to(like.device)


def scaled_squares(rows: Tensor) -> Tensor:
    """Return the squared L2 norm of every row without any float64 on its device.

    Each row is divided by its largest entry, so that no square is lost or overflows; the squares are added in float32,
    64 at a time and then these sums, and the scale comes back in float64 on the CPU.

    Args:
        rows: [N, M], any floating dtype up to float32.

    Returns:
        float64 [N], on the CPU where the rows' device has no float64; not finite where a row is not.
    """
    rows = rows.float()
    largest = rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(rows.shape[0])
    scale = largest.where(largest > 0, 1.0)
    sums = (rows / scale[:, None]).square_()
    while sums.shape[1] > 1:
        step = min(_TOGETHER, sums.shape[1])
        sums = F.pad(sums, (0, -sums.shape[1] % step)).view(len(sums), -(-sums.shape[1] // step), step).sum(2)
    summed, scales = to_float64(torch.stack([sums.sum(1), scale]))  # one journey for both
    squares: Tensor = summed * scales.square()
    return squares
