"""Several rows for each image, [N·m, C, ...], in layers that want one: m becomes a dimension of its own, [N, C, m, ...].

A convolution gains a dimension of kernel size 1, batch norm a position; attention heads that share a pooling convolution
and tokens under batch norm are what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gradood.gradients.layer import Call, Rewrite


def _apart(x: Tensor, batch: int) -> Tensor:
    """[N·m, C, ...] -> [N, C, m, ...]."""
    return x.reshape(batch, -1, *x.shape[1:]).transpose(1, 2)


def _together(x: Tensor) -> Tensor:
    """[N, C, m, ...] -> [N·m, C, ...]."""
    return x.transpose(1, 2).flatten(0, 1)


def _rewrite_convolution(convolution: Callable[..., Tensor], dimensions: int) -> Rewrite:
    def rewrite(call: Call) -> Callable[[], Tensor] | None:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        bound = call.bind(names, (None, None, None, 1, 0, 1, 1))
        if bound is None:
            return None
        x, weight, bias, stride, padding, dilation, groups = bound
        if not call.has_rows(x) or call.is_batch(x) or x.ndim != dimensions + 2 or not call.is_constant(weight, bias):
            return None
        if isinstance(padding, str):
            return None

        def apart() -> Tensor:
            settings = (_each(value, dimensions, first) for value, first in ((stride, 1), (padding, 0), (dilation, 1)))
            return _together(convolution(_apart(x, call.tally.batch), weight.unsqueeze(2), bias, *settings, groups))

        return apart

    return rewrite


def _each(value: Any, dimensions: int, first: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (first, *(values * dimensions if len(values) == 1 else values))


def _rewrite_batch_norm(call: Call) -> Callable[[], Tensor] | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    bound = call.bind(names, (None, None, None, None, None, False, 0.1, 1e-5))
    if bound is None or not call.has_rows(bound[0]) or call.is_batch(bound[0]) or bound[5]:
        return None
    x, *settings = bound
    return lambda: _together(F.batch_norm(_apart(x, call.tally.batch), *settings))


REWRITES: dict[Callable[..., Any], Rewrite] = {
    torch.conv1d: _rewrite_convolution(torch.conv2d, 1),
    torch.conv2d: _rewrite_convolution(torch.conv3d, 2),
    F.batch_norm: _rewrite_batch_norm,
}
