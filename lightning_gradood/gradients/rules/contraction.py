"""Closed forms of sums of products with a parameter of any shape: `einsum`, and products beyond a matrix on the right.

Written as an einsum y = x, θ -> y with a letter for each dimension, the input gradient is y, θ -> x and the parameter's
is x, y -> θ; with the batch's letter added to its result, it is every image's own.

`ROW_REWRITES` serve layers that expect one row per image but get several, [N·m, C, ...]: m becomes a dimension of its
own, [N, C, m, ...], a kernel size of 1 for a convolution, positions for batch norm. Attention heads that share a
pooling convolution and tokens under batch norm need this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.accumulator import Accumulator
from lightning_gradood.gradients.layer import Call, Layer, Match, Rewrite


class Contraction(Layer):
    """y = einsum(x, θ); x and y begin with the batch's letter, which θ does not have."""

    def __init__(self, parameter: Tensor, x: str, letters: str, y: str) -> None:
        self.parameter, self.x, self.letters, self.y = parameter, x, letters, y
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return torch.einsum(f"{self.x},{self.letters}->{self.y}", x, self.parameter)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        accumulator.record(self.parameter, lambda: self._gradients(x, gradient, accumulator.batch))
        return torch.einsum(f"{self.y},{self.letters}->{self.x}", gradient, self.parameter) if needs_input else None

    def _gradients(self, x: Tensor, gradient: Tensor, batch: int) -> Tensor:
        """[N, *shape]; Z counts the rows of each image."""
        a, b = (tensor.reshape(batch, -1, *tensor.shape[1:]) for tensor in (x, gradient))
        image, rest = self.x[0], (self.x[1:], self.y[1:])
        return torch.einsum(f"{image}Z{rest[0]},{image}Z{rest[1]}->{image}{self.letters}", a, b)


def _contraction(call: Call, x: Any, parameter: Any, letters: tuple[str, str, str]) -> tuple[Layer, Tensor] | None:
    """Check that the three gradients are what the class says: no letter twice or in one place alone, no stretching."""
    of_x, of_parameter, of_y = letters
    if not call.has_rows(x) or not call.accumulator.knows(parameter):
        return None
    if any(len(set(term)) != len(term) or not term.isalpha() or "Z" in term for term in letters):
        return None
    if (x.ndim, parameter.ndim) != (len(of_x), len(of_parameter)) or of_x[0] != of_y[:1] or of_x[0] in of_parameter:
        return None
    alone = (set(of_x) - set(of_parameter + of_y)) | (set(of_parameter) - set(of_x + of_y))
    sizes = dict(zip(of_parameter, parameter.shape, strict=True))
    if alone or any(sizes.get(letter, size) != size for letter, size in zip(of_x, x.shape, strict=True)):
        return None
    return Contraction(parameter, *letters), x


def _match_einsum(call: Call) -> tuple[Layer, Tensor] | None:
    if len(call.args) != 3 or call.kwargs or not isinstance(call.args[0], str):
        return None
    equation, first, second = call.args
    terms, arrow, of_y = equation.replace(" ", "").partition("->")
    if not arrow or terms.count(",") != 1:
        return None
    of_first, of_second = terms.split(",")
    if call.accumulator.knows(first):
        return _contraction(call, second, first, (of_second, of_first, of_y))
    return _contraction(call, first, second, (of_first, of_second, of_y))


def _match_product(call: Call) -> tuple[Layer, Tensor] | None:
    """x @ θ and θ @ x, where θ has a matrix for each head, or stands on the left."""
    if len(call.args) != 2 or call.kwargs:
        return None
    left, right = call.args
    x, parameter = (right, left) if call.accumulator.knows(left) else (left, right)
    if not call.has_rows(x) or not call.accumulator.knows(parameter) or parameter.ndim < 2 or parameter.ndim > x.ndim:
        return None
    stacked = "abcdefgh"[: x.ndim - 2]
    own = stacked[len(stacked) - (parameter.ndim - 2) :]
    if parameter is left:
        return _contraction(call, x, parameter, (f"{stacked}jk", f"{own}ij", f"{stacked}ik"))
    return _contraction(call, x, parameter, (f"{stacked}ij", f"{own}jk", f"{stacked}ik"))


def _rewrite_product(call: Call) -> Callable[[], Tensor] | None:
    """A leading dimension of size 1 is left out."""
    if len(call.args) != 2 or call.kwargs:
        return None
    left, right = call.args
    x, parameter = (right, left) if call.accumulator.knows(left) else (left, right)
    if (
        not call.is_activation(x)
        or not call.accumulator.knows(parameter)
        or parameter.ndim < 3
        or parameter.shape[0] != 1
    ):
        return None
    return lambda: parameter[0] @ x if parameter is left else x @ parameter[0]


def _rewrite_sum_and_product(first: str, second: str) -> Rewrite:
    """`addmm` and `baddbmm`: input + first @ second."""

    def rewrite(call: Call) -> Callable[[], Tensor] | None:
        bound = call.bind(("input", first, second, "beta", "alpha"), (None, None, None, 1, 1))
        if bound is None or bound[3:] != [1, 1]:
            return None
        bias, left, right = bound[:3]
        return lambda: left @ right + bias

    return rewrite


_PRODUCTS = (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__)

MATCHES: dict[Callable[..., Any], Match] = {torch.einsum: _match_einsum, **dict.fromkeys(_PRODUCTS, _match_product)}
REWRITES: dict[Callable[..., Any], Rewrite] = {
    **dict.fromkeys(_PRODUCTS, _rewrite_product),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _rewrite_sum_and_product("mat1", "mat2")),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _rewrite_sum_and_product("batch1", "batch2")),
}


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
            return _together(
                convolution(_apart(x, call.accumulator.batch), weight.unsqueeze(2), bias, *settings, groups)
            )

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
    return lambda: _together(F.batch_norm(_apart(x, call.accumulator.batch), *settings))


ROW_REWRITES: dict[Callable[..., Any], Rewrite] = {
    torch.conv1d: _rewrite_convolution(torch.conv2d, 1),
    torch.conv2d: _rewrite_convolution(torch.conv3d, 2),
    F.batch_norm: _rewrite_batch_norm,
}
