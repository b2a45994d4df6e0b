"""Sums and products with a parameter that is broadcast over the batch: tokens, positions, layer scales, affine norms.

y = x + θ has the per-sample gradient b, y = x·θ has b·x, each summed over the dimensions that θ was stretched along. An
expanded parameter (a class token) is θ added to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.accumulator import Accumulator
from lightning_gradood.gradients.layer import Call, Layer, Match, Rewrite


def per_sample(gradient: Tensor, batch: int, shape: Sequence[int]) -> Tensor:
    """Sum a full gradient [N·m, ...] down to a broadcast parameter's shape, image by image: [N, *shape]."""
    rows = gradient.reshape(batch, -1, *gradient.shape[1:])  # m rows an image, e.g. attention windows
    padded = [1] * (gradient.ndim - len(shape)) + list(shape)
    stretched = [1] + [axis + 1 for axis in range(1, gradient.ndim) if padded[axis] == 1]
    return rows.sum(stretched, keepdim=True).reshape(batch, *shape)


class Sum(Layer):
    """y = x + sign·θ."""

    keeps_input = False

    def __init__(self, parameter: Tensor, sign: float = 1.0) -> None:
        self.parameter, self.sign = parameter, sign
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return torch.add(x, self.parameter, alpha=self.sign)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        accumulator.record(
            self.parameter, lambda: self.sign * per_sample(gradient, accumulator.batch, self.parameter.shape)
        )
        return gradient.sum_to_size(self.shape) if needs_input else None


class Product(Layer):
    """y = x·θ, element by element."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return x * self.parameter

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        accumulator.record(self.parameter, lambda: per_sample(gradient * x, accumulator.batch, self.parameter.shape))
        return (gradient * self.parameter).sum_to_size(x.shape) if needs_input else None


class Quotient(Layer):
    """y = x/θ, element by element; dθ = −b·x/θ²."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return x / self.parameter

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        inputs = gradient / self.parameter
        accumulator.record(
            self.parameter,
            lambda: per_sample(-inputs * (x / self.parameter), accumulator.batch, self.parameter.shape),
        )
        return inputs.sum_to_size(x.shape) if needs_input else None


class Expanded(Layer):
    """y = θ, once for each image; its input is a scalar that is not used."""

    def __init__(self, parameter: Tensor, size: tuple[int, ...]) -> None:
        self.parameter, self.size = parameter, size
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return self.parameter.expand(self.size).clone()

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        accumulator.record(self.parameter, lambda: per_sample(gradient, accumulator.batch, self.parameter.shape))
        return None


def _match(build: Callable[[Tensor], Layer], commutes: bool) -> Match:
    def match(call: Call) -> tuple[Layer, Tensor] | None:
        if len(call.args) != 2 or call.kwargs:
            return None
        x, parameter = call.args
        if commutes and call.accumulator.knows(x):
            x, parameter = parameter, x
        if not call.has_rows(x) or not call.accumulator.knows(parameter) or parameter.ndim > x.ndim:
            return None
        if parameter.ndim == x.ndim and parameter.shape[0] != 1:
            return None
        return build(parameter), x

    return match


def _match_expanded(call: Call) -> tuple[Layer, Tensor] | None:
    parameter, *size = call.args
    return None if call.kwargs else _expanded(call, parameter, _sizes(size))


def _match_expanded_as(call: Call) -> tuple[Layer, Tensor] | None:
    if call.kwargs or len(call.args) != 2 or call.accumulator.knows(call.args[1]):
        return None
    return _expanded(call, call.args[0], list(call.args[1].shape))


def _match_repeated(call: Call) -> tuple[Layer, Tensor] | None:
    """`repeat` and `tile`, if they repeat over the batch alone."""
    parameter, *times = call.args
    times = _sizes(times)
    if call.kwargs or not call.accumulator.knows(parameter) or len(times) < parameter.ndim:
        return None
    if any(number != 1 for number in times[1:]):
        return None
    return _expanded(
        call, parameter, [times[0], *([1] * (len(times) - 1 - parameter.ndim)), *_tail(parameter, len(times))]
    )


def _tail(parameter: Tensor, dimensions: int) -> list[int]:
    return list(parameter.shape[1:] if parameter.ndim == dimensions else parameter.shape)


def _sizes(given: Sequence[Any]) -> list[Any]:
    return list(given[0]) if len(given) == 1 and not isinstance(given[0], int) else list(given)


def _expanded(call: Call, parameter: Any, size: list[Any]) -> tuple[Layer, Tensor] | None:
    if not call.accumulator.knows(parameter) or len(size) < max(2, parameter.ndim):
        return None
    if size[0] != call.accumulator.batch or (parameter.ndim == len(size) and parameter.shape[0] != 1):
        return None
    return Expanded(parameter, tuple(size)), parameter.new_zeros(())


def _rewrite_sum_of_product(call: Call) -> Callable[[], Any] | None:
    """`addcmul`: input + value·first·second."""
    bound = call.bind(("input", "tensor1", "tensor2", "value"), (None, None, None, 1))
    if bound is None:
        return None
    x, first, second, value = bound
    return lambda: x + (first * second if value == 1 else first * second * value)


def _rewrite_reversed_difference(call: Call) -> Callable[[], Any] | None:
    """θ − x: from `torch.sub(θ, x)` or `θ - x`."""
    if (
        len(call.args) != 2
        or call.kwargs
        or not call.accumulator.knows(call.args[0])
        or not call.has_rows(call.args[1])
    ):
        return None
    parameter, x = call.args
    return lambda: -x + parameter


def _rewrite_reversed_quotient(call: Call) -> Callable[[], Any] | None:
    """θ / x."""
    if (
        len(call.args) != 2
        or call.kwargs
        or not call.accumulator.knows(call.args[0])
        or not call.has_rows(call.args[1])
    ):
        return None
    parameter, x = call.args
    return lambda: x.reciprocal() * parameter


def _rewrite_cast(call: Call) -> Callable[[], Any] | None:
    """`to` and `type_as` ask a second tensor for no more than its dtype and device."""
    if len(call.args) != 2 or call.kwargs or not all(isinstance(tensor, Tensor) for tensor in call.args):
        return None
    x, other = call.args
    return lambda: x.to(other.device, other.dtype)


def _in_place(func: Callable[..., Any]) -> Rewrite:
    """`x.mul_(θ)` and the like: the result is written over x, which the layer must not keep."""

    def rewrite(call: Call) -> Callable[[], Any] | None:
        if len(call.args) != 2 or call.kwargs or not call.is_activation(call.args[0]):
            return None
        x, parameter = call.args
        return lambda: x.copy_(func(x.clone(), parameter))

    return rewrite


_SUM, _PRODUCT = _match(Sum, True), _match(Product, True)
_DIFFERENCE = _match(lambda parameter: Sum(parameter, -1.0), False)
_QUOTIENT = _match(Quotient, False)

_SUBTRACTING = (torch.sub, torch.subtract, Tensor.sub, Tensor.subtract, Tensor.__sub__)
_DIVIDING = (
    torch.div,
    torch.divide,
    torch.true_divide,
    Tensor.div,
    Tensor.divide,
    Tensor.true_divide,
    Tensor.__truediv__,
)

MATCHES: dict[Callable[..., Any], Match] = {
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _SUM),
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _PRODUCT),
    **dict.fromkeys(_SUBTRACTING, _DIFFERENCE),
    **dict.fromkeys(_DIVIDING, _QUOTIENT),
    **dict.fromkeys((Tensor.expand, torch.broadcast_to, Tensor.broadcast_to), _match_expanded),
    Tensor.expand_as: _match_expanded_as,
    **dict.fromkeys((Tensor.repeat, Tensor.tile, torch.tile), _match_repeated),
}

REWRITES: dict[Callable[..., Any], Rewrite] = {
    **dict.fromkeys((torch.addcmul, Tensor.addcmul), _rewrite_sum_of_product),
    **dict.fromkeys(_SUBTRACTING, _rewrite_reversed_difference),
    **dict.fromkeys(_DIVIDING, _rewrite_reversed_quotient),
    **dict.fromkeys((Tensor.to, Tensor.type_as), _rewrite_cast),
    **dict.fromkeys((Tensor.add_, Tensor.__iadd__), _in_place(torch.add)),
    **dict.fromkeys((Tensor.sub_, Tensor.__isub__), _in_place(torch.sub)),
    **dict.fromkeys((Tensor.mul_, Tensor.__imul__), _in_place(torch.mul)),
    **dict.fromkeys((Tensor.div_, Tensor.__itruediv__), _in_place(torch.div)),
}
