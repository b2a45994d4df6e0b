"""Sums and products with a parameter that is broadcast over the batch: tokens, positions, layer scales, affine norms.

y = x + θ has the per-sample gradient b, y = x·θ has b·x, each summed over the dimensions that θ was stretched along. An
expanded parameter (a class token) is θ added to zero. PReLU is x where x > 0, else θ x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.closed_form import Accumulator, Call, Layer, Replacement, Rule, taking


def per_sample(gradient: Tensor, batch: int, shape: Sequence[int]) -> Tensor:
    """Sum a full gradient [N·m, ...] down to a broadcast parameter's shape, image by image: [N, *shape]."""
    rows = gradient.reshape(batch, -1, *gradient.shape[1:])  # m rows an image, e.g. attention windows
    padded = [1] * (gradient.ndim - len(shape)) + list(shape)
    stretched = [1] + [axis + 1 for axis in range(1, gradient.ndim) if padded[axis] == 1]
    return rows.sum(stretched, keepdim=True).reshape(batch, *shape)


@dataclass(frozen=True)
class Operation:
    """y = f(x, θ), entry by entry, and its derivatives times b, the loss's gradient in y."""

    function: Callable[[Tensor, Tensor], Tensor]
    by_input: Callable[[Tensor, Tensor, Tensor], Tensor]  # of x, θ and b
    by_parameter: Callable[[Tensor, Tensor, Tensor], Tensor]
    keeps_input: bool = True


SUM = Operation(torch.add, lambda x, theta, b: b, lambda x, theta, b: b, keeps_input=False)
DIFFERENCE = Operation(torch.sub, lambda x, theta, b: b, lambda x, theta, b: -b, keeps_input=False)
PRODUCT = Operation(torch.mul, lambda x, theta, b: b * theta, lambda x, theta, b: b * x)
QUOTIENT = Operation(torch.div, lambda x, theta, b: b / theta, lambda x, theta, b: -(b / theta) * (x / theta))


class Elementwise(Layer):
    """An `Operation` whose θ, or whose x, may be stretched."""

    def __init__(self, operation: Operation, parameter: Tensor) -> None:
        super().__init__(parameter)
        self.operation, self.keeps_input = operation, operation.keeps_input

    @override
    def output(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return self.operation.function(x, self.parameters[0])

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        parameter, operation = self.parameters[0], self.operation
        accumulator.record(
            parameter,
            lambda: per_sample(operation.by_parameter(x, parameter, gradient), accumulator.batch, parameter.shape),
        )
        return operation.by_input(x, parameter, gradient).sum_to_size(self.shape) if needs_input else None


_binary = taking("input", "other")


def _rule(operation: Operation, turned: Callable[[Tensor, Tensor], Tensor] | None = None) -> Rule:
    """x and θ, or θ and x, which commute unless there is a function of x and θ for that order."""

    @_binary
    def rule(call: Call, given: Any) -> Replacement:
        x, parameter, is_turned = given.input, given.other, call.knows(given.input)
        if is_turned:
            x, parameter = parameter, x
        if not call.has_rows(x) or not call.knows(parameter):
            return None
        if is_turned and turned is not None:
            return lambda: turned(x, parameter)
        if parameter.ndim > x.ndim or (parameter.ndim == x.ndim and parameter.shape[0] != 1):
            return None
        return Elementwise(operation, parameter), x

    return rule


def _in_place(func: Callable[..., Any]) -> Rule:
    """`x.mul_(θ)` and the like: the result is written over x, which the layer must not keep."""

    @_binary
    def rule(call: Call, given: Any) -> Replacement:
        x = given.input
        return (lambda: x.copy_(func(x.clone(), given.other))) if call.is_activation(x) else None

    return rule


def _expand(call: Call) -> Replacement:
    """`expand` and `broadcast_to`, and `expand_as` unless it is another parameter's shape."""
    parameter, *size = call.args
    if call.kwargs or call.knows(size[0]):
        return None
    return _expanded(call, parameter, list(size[0].shape) if isinstance(size[0], Tensor) else _sizes(size))


def _repeat(call: Call) -> Replacement:
    """`repeat` and `tile`, if they repeat over the batch alone."""
    parameter, *times = call.args
    number, *others = _sizes(times)
    if call.kwargs or not call.knows(parameter) or len(others) + 1 < parameter.ndim or set(others) - {1}:
        return None
    return _expanded(call, parameter, [number, *((1,) * (len(others) + 1 - parameter.ndim) + parameter.shape)[1:]])


def _sizes(given: Sequence[Any]) -> list[Any]:
    return list(given[0]) if len(given) == 1 and not isinstance(given[0], int) else list(given)


def _expanded(call: Call, parameter: Any, size: list[Any]) -> Replacement:
    if not call.knows(parameter) or len(size) < max(2, parameter.ndim) or size[0] != call.accumulator.batch:
        return None
    if parameter.ndim == len(size) and parameter.shape[0] != 1:
        return None
    return Elementwise(SUM, parameter), parameter.new_zeros(()).expand(parameter.expand(*size).shape)  # sizes may be -1


@taking("input", "tensor1", "tensor2", value=1)
def _addcmul(call: Call, given: Any) -> Replacement:
    first, second, value = given.tensor1, given.tensor2, given.value
    return lambda: given.input + (first * second if value == 1 else first * second * value)


@taking("input", "weight")
def _prelu(call: Call, given: Any) -> Replacement:
    x, slope = given.input, given.weight
    if not call.has_rows(x) or not call.knows(slope) or slope.ndim != 1:
        return None
    return lambda: torch.where(x > 0, x, x * slope.view(-1, *(1,) * (x.ndim - 2)))


@_binary
def _cast(call: Call, given: Any) -> Replacement:
    """`to` and `type_as` ask a second tensor for no more than its dtype and device."""
    is_tensor = isinstance(given.other, Tensor)
    return (lambda: given.input.to(given.other.device, given.other.dtype)) if is_tensor else None


_SAME: dict[Rule, tuple[Callable[..., Any], ...]] = {
    _rule(SUM): (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    _rule(PRODUCT): (torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    _rule(DIFFERENCE, lambda x, theta: -x + theta): (
        torch.sub, torch.subtract, Tensor.sub, Tensor.subtract, Tensor.__sub__,
    ),
    _rule(QUOTIENT, lambda x, theta: x.reciprocal() * theta): (
        torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.divide, Tensor.true_divide, Tensor.__truediv__,
    ),
    _expand: (Tensor.expand, torch.broadcast_to, Tensor.broadcast_to, Tensor.expand_as),
    _repeat: (Tensor.repeat, Tensor.tile, torch.tile),
    _addcmul: (torch.addcmul, Tensor.addcmul),
    _prelu: (F.prelu, torch.prelu, Tensor.prelu),
    _cast: (Tensor.to, Tensor.type_as),
    _in_place(torch.add): (Tensor.add_, Tensor.__iadd__),
    _in_place(torch.sub): (Tensor.sub_, Tensor.__isub__),
    _in_place(torch.mul): (Tensor.mul_, Tensor.__imul__),
    _in_place(torch.div): (Tensor.div_, Tensor.__itruediv__),
}  # fmt: skip
RULES = {function: rule for rule, functions in _SAME.items() for function in functions}
