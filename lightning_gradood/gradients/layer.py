"""The contract of a closed form: one operation on parameters, its output, its input gradient, its per-sample norms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gradood.gradients.accumulator import Accumulator


class Layer(ABC):
    """One call of an operation in the forward pass, with the parameters it used."""

    parameters: Sequence[Tensor | None]  # those whose gradients it accounts for; None where an argument is absent
    keeps_input: bool = True  # whether `backward` reads the input's values; if not, the network may overwrite them

    @abstractmethod
    def output(self, x: Tensor) -> Tensor:
        """Compute the operation for its input, [N, ...]."""

    @abstractmethod
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        """Record the parameters' norms in `accumulator`; return the input's gradient, or None unless `needs_input`.

        `x` is the forward pass's input [N, ...], or an empty tensor where the layer does not keep it; `gradient` is
        d loss / d output, in which image n's loss fills row n alone.
        """


@dataclass(frozen=True)
class Call:
    """A call to a torch function with a parameter among its arguments, as a closed form's `match` sees it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    accumulator: Accumulator
    from_images: Callable[[Tensor], bool]  # whether a tensor without gradient was computed from the images

    def bind(self, names: Sequence[str], defaults: Sequence[Any]) -> list[Any] | None:
        """Return the arguments in the order of `names`; None if the call has others, which no formula covers."""
        if len(self.args) > len(names) or set(self.kwargs) - set(names):
            return None
        values = [*self.args, *([None] * (len(names) - len(self.args)))]
        for place in range(len(self.args), len(names)):
            values[place] = self.kwargs.get(names[place], defaults[place])
        return values

    def is_batch(self, tensor: object) -> bool:
        """Whether `tensor` is an activation with one leading row for each image."""
        return (
            isinstance(tensor, Tensor)
            and not self.accumulator.knows(tensor)
            and tensor.ndim >= 2
            and tensor.shape[0] == self.accumulator.batch
            and tensor.is_floating_point()
            and (tensor.requires_grad or self.from_images(tensor))
        )

    def has_rows(self, tensor: object) -> bool:
        """Whether `tensor` is an activation [N·m, ...] with m leading rows for each image in turn."""
        return (
            isinstance(tensor, Tensor)
            and not self.accumulator.knows(tensor)
            and tensor.ndim >= 2
            and tensor.shape[0] > 0
            and tensor.shape[0] % self.accumulator.batch == 0
            and tensor.is_floating_point()
            and (tensor.requires_grad or self.from_images(tensor))
        )

    def is_activation(self, *tensors: object) -> bool:
        """Whether each is a floating point tensor with a gradient that is not made of parameters alone."""
        return all(
            isinstance(tensor, Tensor)
            and not self.accumulator.knows(tensor)
            and tensor.requires_grad
            and tensor.is_floating_point()
            for tensor in tensors
        )

    def is_constant(self, *tensors: object) -> bool:
        """Whether each is absent, a parameter, or a tensor that no gradient flows through."""
        return all(
            tensor is None
            or self.accumulator.knows(tensor)
            or (isinstance(tensor, Tensor) and not tensor.requires_grad)
            for tensor in tensors
        )


Match = Callable[[Call], tuple[Layer, Tensor] | None]
"""Turns a call into its layer and the layer's input, or returns None."""

Rewrite = Callable[[Call], Callable[[], Any] | None]
"""Returns a function that spells a call out in simpler ones, or None."""


class Recorded(torch.autograd.Function):
    """Puts a `Layer` into the autograd graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, layer: Layer, accumulator: Accumulator, x: Tensor) -> Tensor:
        """Compute the output; `anchor` requires grad, so that backward runs even when `x` does not."""
        ctx.layer, ctx.accumulator = layer, accumulator
        ctx.save_for_backward(x if layer.keeps_input else x.new_empty(0))
        return layer.output(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor | None]:
        """Record norms and hand the input's gradient on."""
        (x,) = ctx.saved_tensors
        return (None, None, None, ctx.layer.backward(x, gradient, ctx.needs_input_grad[3], ctx.accumulator))
