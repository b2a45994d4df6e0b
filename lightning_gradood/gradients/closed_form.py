"""What a closed form is: a layer with its per-image norms, the call that it replaces, and the accumulator of its norms.

For dW = B Aᵀ (A [C, T], B [D, T]) the squared norm is ⟨AᵀA, BᵀB⟩: exact algebra, but a sum of terms of both signs. Its
relative error is about the machine epsilon divided by ρ = ‖dW‖² / (tr AᵀA · tr BᵀB), so rows with a small ρ are
computed again through dW itself (`guarded`). ρ costs nothing, because both matrices are at hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lightning_gradood.core import to_float64, to_float64_device
from lightning_gradood.gradients.reparametrised import Reparametrised

SMALLEST_RATIO = 1e-4  # keeps float32 below about 1e-4 relative error and float64 below 1e-11
_STRIP = 64  # rows, fewer of which keep a matrix product from its speed
_SMALL = 1 << 15  # elements; with fewer, float64 costs less than asking whether it is needed


class Layer(ABC):
    """One call of an operation in the forward pass, with the parameters whose gradients it accounts for."""

    keeps_input = True  # whether `backward` reads the input's values; if not, the network may overwrite them

    def __init__(self, *parameters: Tensor | None) -> None:
        self.parameters: tuple[Any, ...] = parameters  # None where an argument is absent

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
    """A call to a torch function with a parameter among its arguments."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    accumulator: Accumulator
    from_images: Callable[[Tensor], bool]  # whether a tensor without gradient was computed from the images

    def is_batch(self, tensor: Any) -> bool:
        """Whether `tensor` is an activation with one leading row for each image."""
        return self.has_rows(tensor) and tensor.shape[0] == self.accumulator.batch

    def has_rows(self, tensor: Any) -> bool:
        """Whether `tensor` is an activation [N·m, ...] with m leading rows for each image in turn."""
        return (
            isinstance(tensor, Tensor)
            and not self.knows(tensor)
            and tensor.ndim >= 2
            and tensor.shape[0] > 0
            and tensor.shape[0] % self.accumulator.batch == 0
            and tensor.is_floating_point()
            and (tensor.requires_grad or self.from_images(tensor))
        )

    def is_activation(self, *tensors: Any) -> bool:
        """Whether each is a tensor with a gradient that is not made of parameters alone."""
        return all(isinstance(one, Tensor) and one.requires_grad and not self.knows(one) for one in tensors)

    def is_constant(self, *tensors: Any) -> bool:
        """Whether each is absent, a parameter, or a tensor that no gradient flows through."""
        return all(
            one is None or self.knows(one) or (isinstance(one, Tensor) and not one.requires_grad) for one in tensors
        )

    def knows(self, tensor: object) -> bool:
        """Whether `tensor` is a parameter or reparametrised from parameters alone."""
        return self.accumulator.knows(tensor)


Replacement = tuple[Layer, Tensor] | Callable[[], Any] | None
"""A layer and its input, or a function that spells a call out in simpler ones, or None where no formula covers it."""

Rule = Callable[[Call], Replacement]


def taking(*names: str, **defaults: Any) -> Callable[[Callable[[Call, Any], Replacement]], Rule]:
    """Make a `Rule` of a function that is given the call and its arguments as attributes.

    The torch function takes `names`, None where they are missing, and then `defaults`. No formula covers a call with
    other arguments.
    """
    order, missing = (*names, *defaults), dict.fromkeys(names) | defaults

    def decorate(function: Callable[[Call, Any], Replacement]) -> Rule:
        def rule(call: Call) -> Replacement:
            if len(call.args) > len(order) or not call.kwargs.keys() <= missing.keys():
                return None
            return function(call, SimpleNamespace(**missing | dict(zip(order, call.args, strict=False)) | call.kwargs))

        return rule

    return decorate


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


class Accumulator:
    """Collects the contributions of all uses of each parameter during one backward pass.

    A parameter that is used once gives its norms at once, by the cheapest closed form. One that is used several times,
    or through a reparametrised tensor, needs its per-sample gradients added up first: a norm of a sum is not the sum of
    norms. `passes` backward passes (label designs) follow one forward.
    """

    def __init__(self, parameters: Sequence[Tensor], batch: int, passes: int = 1) -> None:
        self.batch, self.passes = batch, passes
        self.parameters = parameters  # keeps the ids below valid
        self._column = {id(parameter): column for column, parameter in enumerate(parameters)}
        self.reparametrised = Reparametrised(self._column)
        self._uses, self._held = [0] * len(parameters), set[int]()
        self.start()

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Keep the per-sample gradients of these parameters in the backward pass that follows, for `held`."""
        self._held = set(map(self.column, tensors))

    def held(self, tensor: Tensor) -> Tensor:
        """Per-sample gradients [N, *shape] of a parameter that was asked for, after `result`."""
        found = self._sums.get(id(tensor))
        return tensor.new_zeros(self.batch, *tensor.shape) if found is None else found

    def start(self) -> None:
        """Begin a backward pass: forget the contributions of the one before."""
        self._norms: dict[int, Tensor] = {}  # by column
        self._sums: dict[int, Tensor] = {}  # by id, of parameters and of reparametrised tensors

    def knows(self, tensor: object) -> bool:
        """Whether `tensor` is a parameter or reparametrised from parameters alone."""
        return id(tensor) in self._column or id(tensor) in self.reparametrised.tensors

    def column(self, tensor: Tensor) -> int:
        """A parameter's place in the result; -1 for a reparametrised tensor."""
        return self._column.get(id(tensor), -1)

    def use(self, tensor: Tensor | None) -> None:
        """Count one use in the forward pass, of a parameter itself or through a tensor that rearranges its entries."""
        if tensor is not None:
            self.reparametrised.spend(tensor)
            if (column := self.column(self.reparametrised.source(tensor))) >= 0:
                self._uses[column] += 1

    def is_summed(self, tensor: Tensor) -> bool:
        """Whether the gradients of a parameter or reparametrised tensor are needed, to add up several uses."""
        standardised = self.reparametrised.standardised(tensor)
        parameter = self.reparametrised.source(tensor) if standardised is None else standardised.parameter
        column = self.column(parameter)
        return (
            column < 0 or column in self._held or self._uses[column] > 1 or id(parameter) in self.reparametrised.mixed
        )

    def summed_elements(self) -> int:
        """Number of gradient entries per image that have to be held until the end of a backward pass."""
        tensors = (*self.parameters, *self.reparametrised.tensors.values())
        return sum(tensor.numel() for tensor in tensors if self.is_summed(tensor))

    def record(
        self, tensor: Tensor | None, gradients: Callable[[], Tensor], norms: Callable[[], Tensor] | None = None
    ) -> None:
        """Add one use's contribution in the form that is needed; ignore None and tensors that are not known.

        `gradients` computes the per-sample gradients [N, *shape], `norms` more cheaply their squares [N].
        """
        if tensor is None or not self.knows(tensor) or (self._held and self.column(tensor) not in (-1, *self._held)):
            return
        if self.is_summed(tensor):
            self._add(tensor, gradients())
        else:
            column = self.column(self.reparametrised.source(tensor))
            self._norms[column] = squared_rows(gradients()) if norms is None else to_float64(norms())

    def result(self) -> Tensor:
        """The pass's squared norms, float64 [N, L]; a parameter without any contribution has 0."""
        ways_back = {key: gradient for key, gradient in self._sums.items() if key not in self._column}
        for parameter, gradient in self.reparametrised.pull_back(ways_back):
            self._add(parameter, gradient)
        for key, gradient in self._sums.items():
            if key in self._column:
                self._norms[self._column[key]] = squared_rows(gradient)
        nothing = to_float64(self.parameters[0].new_zeros(self.batch))
        return torch.stack([self._norms.get(column, nothing) for column in range(len(self._uses))], 1)

    def _add(self, tensor: Tensor, gradient: Tensor) -> None:
        self._sums[id(tensor)] = self._sums[id(tensor)] + gradient if id(tensor) in self._sums else gradient


def squared_rows(gradients: Tensor) -> Tensor:
    """Squared L2 norm of every row, [N, ...] -> float64 [N]; small ones and those near underflow summed in float64."""
    rows = to_float64_device(gradients.reshape(gradients.shape[0], -1))
    if rows.numel() <= _SMALL:
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return norms.square()
    norms = torch.linalg.vector_norm(rows, dim=1).double()
    info = torch.finfo(rows.dtype)
    small = (norms < info.tiny**0.5 / info.eps).nonzero().flatten()
    if small.numel():
        norms[small] = torch.linalg.vector_norm(rows[small], dim=1, dtype=torch.float64)
    return norms.square()


def paired(strip_of: Callable[[int, int], Tensor], b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ⟨A, bᵀb⟩ and tr A · tr bᵀb for each image, float64 [N] twice, for a symmetric A [N, T, T] and b [N, D, T].

    Of A and bᵀb only strips from the diagonal on are asked for (`strip_of` for rows from one to another) and computed;
    what is right of the diagonal's blocks counts twice. Traces near the smallest numbers of their dtype become infinite,
    so that `guarded` replaces the row.
    """
    T = b.shape[2]
    step = max(_STRIP, -(-T // 4))
    trace_a = trace_b = inner = torch.zeros((), dtype=torch.float64)
    for start in range(0, T, step):
        other, own = strip_of(start, start + step), strip(b, start, start + step)
        trace_a, trace_b = trace_a + _trace(other), trace_b + _trace(own)
        own.mul_(other)
        inner = inner + _total(own)
        if own.shape[2] > step:
            inner = inner + _total(own[:, :, step:])
    info = torch.finfo(b.dtype)
    vanishing = torch.minimum(trace_a, trace_b) < T * info.tiny / info.eps
    return inner, (trace_a * trace_b).masked_fill(vanishing, torch.inf)


def guarded(inner: Tensor, traces: Tensor, again: Callable[[Tensor], Tensor]) -> Tensor:
    """Replace the rows of `inner` = ⟨AᵀA, BᵀB⟩, float64 [N], that are small beside `traces` = tr AᵀA · tr BᵀB.

    `again` takes these rows' indices and returns their squared norms through dW.
    """
    rows = (inner <= SMALLEST_RATIO * traces).nonzero().flatten()
    if rows.numel():
        inner[rows] = again(rows)
    return inner


def strip(b: Tensor, start: int, stop: int) -> Tensor:
    """Rows of bᵀb from its diagonal on."""
    return torch.bmm(b[:, :, start:stop].transpose(1, 2), b[:, :, start:])


def _total(matrices: Tensor) -> Tensor:
    """Sum of each matrix: its rows pairwise, as torch does, then in float64; a dot product would lose another digit."""
    return to_float64_device(matrices.sum(2)).sum(1, dtype=torch.float64)


def _trace(matrices: Tensor) -> Tensor:
    return to_float64_device(matrices.diagonal(dim1=1, dim2=2)).sum(1, dtype=torch.float64)
