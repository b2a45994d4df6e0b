"""A copy of a network on which a proof means something: with weights that hide nothing and, if needed, in float64.

Closed forms are right or wrong by what a network does, not by its weights. But behind a factor of zero, or a layer scale
of 1e-6 as many networks start with, a wrong number is too small to be seen; and float32 may round away what float64 shows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.gradients.precision import home

_TINY = 0.05  # root mean square of a parameter, below which what lies behind it could be hidden


def twin_of(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a copy in another dtype, on the network's device or, where that has no float64, on the CPU.

    Raises:
        Exception: whatever a network raises that cannot be copied or cast.
    """
    memo: dict[int, object] = {}
    for module in network.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:  # which deepcopy refuses, e.g. a cached weight
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(network, memo)
    device = next(twin.parameters()).device
    twin = twin.to(home(device) if dtype == torch.float64 else device).to(dtype)
    for module in twin.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                module.__dict__[name] = value.to(dtype).to(next(twin.parameters()).device)
    return twin


def images_for(network: nn.Module, images: Tensor) -> Tensor:
    """Images where a network's parameters are and in their dtype; they travel before they become float64."""
    parameter = next(network.parameters())
    return images.to(parameter.device).to(parameter.dtype)


def reveal(parameters: Sequence[nn.Parameter]) -> None:
    """Fill parameters that are zero or tiny with numbers of an ordinary size, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            values = parameter.detach()
            if not values.numel() or float(values.square().mean().sqrt()) >= _TINY / math.sqrt(max(1, _inputs(values))):
                continue
            drawn = torch.rand(values.shape, generator=generator)
            if values.ndim < 2 or _inputs(values) == 1:
                drawn = 0.25 + 0.5 * drawn  # positive, as scales and temperatures are
            else:
                drawn = (2 * drawn - 1) * math.sqrt(3 / _inputs(values))
            parameter.copy_(drawn)


def _inputs(values: Tensor) -> int:
    """Number of inputs that one output of this weight adds up."""
    return values[0].numel() if values.ndim > 1 else 1
