"""Where float64 numbers are computed: on a tensor's own device, or on the CPU where that device has none (Apple's MPS).

>>> import torch
>>> to_float64(torch.ones(2)).dtype
torch.float64
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

_WITHOUT_FLOAT64 = {"mps"}  # types of devices on which a float64 tensor cannot exist

LOG_FLOOR = 1e-30
"""Added to a squared norm before its logarithm is taken: those of confident images underflow to zero."""


def to_float64_device(tensor: Tensor) -> Tensor:
    """Return the tensor itself where its device has float64, else a copy on the CPU; any dtype, which is kept."""
    return tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor


def to_float64(tensor: Tensor) -> Tensor:
    """Return a tensor of any dtype as float64, on its own device or the CPU; gradients flow back in its own dtype."""
    return to_float64_device(tensor).double()


def as_array(values: Any) -> np.ndarray:
    """Return a tensor, an array or a sequence as a numpy array; floating point tensors in float64, without graph."""
    if isinstance(values, Tensor):
        plain = values.detach().cpu()
        return np.asarray(plain.double() if plain.is_floating_point() else plain)
    return np.asarray(values)
