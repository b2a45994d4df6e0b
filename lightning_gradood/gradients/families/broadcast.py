"""Sums and products with a parameter that is broadcast over the batch: tokens, positions, layer scales, affine norms.

y = x + θ has the per-sample gradient b, y = x·θ has b·x, each summed over the dimensions that θ was stretched along; an
expanded parameter (a class token) is θ added to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.tally import Tally


def per_sample(gradient: Tensor, batch: int, shape: Sequence[int]) -> Tensor:
    """Sum a full gradient [N·m, ...] down to a broadcast parameter's shape, image by image: [N, *shape]."""
    rows = gradient.reshape(batch, -1, *gradient.shape[1:])  # m rows an image, e.g. attention windows
    padded = [1] * (gradient.ndim - len(shape)) + list(shape)
    stretched = [1] + [axis + 1 for axis in range(1, gradient.ndim) if padded[axis] == 1]
    return rows.sum(stretched, keepdim=True).reshape(batch, *shape)


class Sum(Layer):
    """y = x + sign·θ."""

    def __init__(self, parameter: Tensor, sign: float = 1.0) -> None:
        self.parameter, self.sign = parameter, sign
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return torch.add(x, self.parameter, alpha=self.sign)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        tally.record(self.parameter, lambda: self.sign * per_sample(gradient, tally.batch, self.parameter.shape))
        return gradient.sum_to_size(x.shape) if needs_input else None


class Product(Layer):
    """y = x·θ, element by element."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return x * self.parameter

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        tally.record(self.parameter, lambda: per_sample(gradient * x, tally.batch, self.parameter.shape))
        return (gradient * self.parameter).sum_to_size(x.shape) if needs_input else None


class Expanded(Layer):
    """y = θ, once for each image; its input is a scalar without meaning."""

    def __init__(self, parameter: Tensor, size: tuple[int, ...]) -> None:
        self.parameter, self.size = parameter, size
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return self.parameter.expand(self.size).clone()

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        tally.record(self.parameter, lambda: per_sample(gradient, tally.batch, self.parameter.shape))
        return None


def _match(build: Callable[[Tensor], Layer], commutes: bool) -> Match:
    def match(call: Call) -> tuple[Layer, Tensor] | None:
        if len(call.args) != 2 or call.kwargs:
            return None
        x, parameter = call.args
        if commutes and call.tally.knows(x):
            x, parameter = parameter, x
        if not call.has_rows(x) or not call.tally.knows(parameter) or parameter.ndim > x.ndim:
            return None
        if parameter.ndim == x.ndim and parameter.shape[0] != 1:
            return None
        return build(parameter), x

    return match


def _match_expanded(call: Call) -> tuple[Layer, Tensor] | None:
    parameter, *size = call.args
    size = list(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
    if call.kwargs or not call.tally.knows(parameter) or len(size) < max(2, parameter.ndim):
        return None
    if size[0] != call.tally.batch or (parameter.ndim == len(size) and parameter.shape[0] != 1):
        return None
    return Expanded(parameter, tuple(size)), parameter.new_zeros(())


_SUM, _PRODUCT = _match(Sum, True), _match(Product, True)
_DIFFERENCE = _match(lambda parameter: Sum(parameter, -1.0), False)

MATCHES: dict[Callable[..., Any], Match] = {
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _SUM),
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _PRODUCT),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__), _DIFFERENCE),
    Tensor.expand: _match_expanded,
}
