"""The accumulator of a backward pass: one squared norm per image and parameter tensor.

For dW = B Aᵀ (A [C, T], B [D, T]) the squared norm is ⟨AᵀA, BᵀB⟩: exact algebra, but a sum of terms of both signs. Its
relative error is about the machine epsilon divided by ρ = ‖dW‖² / (tr AᵀA · tr BᵀB), so rows with a small ρ are
computed again through dW itself (`guarded`). ρ costs nothing, because both matrices are at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_gradood.core import to_float64, to_float64_device
from lightning_gradood.gradients.reparametrised import Reparametrised

SMALLEST_RATIO = 1e-4  # keeps float32 below about 1e-4 relative error and float64 below 1e-11
_STRIP = 64  # rows, fewer of which keep a matrix product from its speed


def paired(gram: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ⟨A, bᵀb⟩ and tr A · tr bᵀb for each image, float64 [N] twice, for A = `gram` [N, T, T] and b [N, D, T].

    Of the symmetric bᵀb only strips from the diagonal on are computed; what is right of its blocks counts twice. Traces
    near the smallest numbers of their dtype become infinite, so that `guarded` replaces the row.
    """
    return _paired(lambda start, stop: gram[:, start:stop, start:], b)


def paired_products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return `paired` for A = aᵀa, a [N, C, T], computed in strips."""
    return _paired(lambda start, stop: _strip(a, start, stop), b)


def _paired(strip_of: Callable[[int, int], Tensor], b: Tensor) -> tuple[Tensor, Tensor]:
    T = b.shape[2]
    step = max(_STRIP, -(-T // 4))
    traces_a, traces_b, inners = [], [], []
    for start in range(0, T, step):
        other, strip = strip_of(start, start + step), _strip(b, start, start + step)
        traces_a.append(_trace(other))
        traces_b.append(_trace(strip))
        strip.mul_(other)
        inners.append(_total(strip))
        if strip.shape[2] > step:
            inners.append(_total(strip[:, :, step:]))
    trace_a, trace_b, inner = (functools.reduce(torch.add, parts) for parts in (traces_a, traces_b, inners))
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


def _strip(b: Tensor, start: int, stop: int) -> Tensor:
    """Rows of bᵀb from its diagonal on."""
    return torch.bmm(b[:, :, start:stop].transpose(1, 2), b[:, :, start:])


def _total(matrices: Tensor) -> Tensor:
    """Sum of each matrix: its rows pairwise, as torch does, then in float64; a dot product would lose another digit."""
    return to_float64_device(matrices.sum(2)).sum(1, dtype=torch.float64)


def _trace(matrices: Tensor) -> Tensor:
    return to_float64_device(matrices.diagonal(dim1=1, dim2=2)).sum(1, dtype=torch.float64)


_SMALL = 1 << 15  # elements; with fewer, float64 costs less than asking whether it is needed


class Accumulator:
    """Collects the contributions of all uses of each parameter during one backward pass.

    A parameter that is used once gives its norms at once, by the cheapest closed form. One that is used several times,
    or through a reparametrised tensor, needs its per-sample gradients added up first: a norm of a sum is not the sum of
    norms. The L `parameters` are in the columns' order; `passes` backward passes (label designs) follow one forward.
    """

    def __init__(self, parameters: Sequence[Tensor], batch: int, passes: int = 1) -> None:
        self.batch, self.passes = batch, passes
        self.reparametrised = Reparametrised()
        self._parameters = parameters  # keeps the ids below valid
        self._column = {id(parameter): column for column, parameter in enumerate(parameters)}
        self._uses = [0] * len(parameters)
        self.start()

    def start(self) -> None:
        """Begin a backward pass: forget the contributions of the one before."""
        self._norms: dict[int, Tensor] = {}  # by column
        self._sums: dict[int, Tensor] = {}  # by id, of parameters and of reparametrised tensors

    def is_parameter(self, tensor: object) -> bool:
        """Whether `tensor` is one of the L parameters."""
        return id(tensor) in self._column

    def knows(self, tensor: object) -> bool:
        """Whether `tensor` is a parameter or reparametrised from parameters alone."""
        return id(tensor) in self._column or self.reparametrised.knows(tensor)

    def known_among(self, tensors: list[Tensor]) -> list[Tensor]:
        """Filter by `knows`, inlined because every call of every pass asks."""
        return [tensor for tensor in tensors if id(tensor) in self._column or self.reparametrised.knows(tensor)]

    def column(self, tensor: Tensor) -> int:
        """A parameter's place in the result; -1 for a reparametrised tensor."""
        return self._column.get(id(tensor), -1)

    def use(self, tensor: Tensor | None) -> None:
        """Count one use in the forward pass, of a parameter itself or through a tensor that rearranges its entries."""
        self.reparametrised.spend(tensor)
        used = self.reparametrised.source(tensor)
        key = id(tensor if used is None else used)
        if key in self._column:
            self._uses[self._column[key]] += 1

    def summed_elements(self) -> int:
        """Number of gradient entries per image that have to be held until the end of a backward pass."""
        shared = sum(parameter.numel() for parameter in self._parameters if self.is_summed(parameter))
        return shared + self.reparametrised.elements(self.is_summed)

    def record(
        self, tensor: Tensor | None, gradients: Callable[[], Tensor], norms: Callable[[], Tensor] | None = None
    ) -> None:
        """Add one use's contribution in the form that is needed; ignore None and tensors that are not known.

        `gradients` computes the per-sample gradients [N, *shape], `norms` more cheaply their squares [N].
        """
        if tensor is None or not self.knows(tensor):
            return
        if self.is_summed(tensor):
            self._add(tensor, gradients())
        else:
            source = self.reparametrised.source(tensor)
            column = self.column(tensor if source is None else source)
            self._norms[column] = squared_rows(gradients()) if norms is None else to_float64(norms())

    def result(self) -> Tensor:
        """The pass's squared norms, float64 [N, L]; a parameter without any contribution has 0."""
        ways_back = {key: gradient for key, gradient in self._sums.items() if key not in self._column}
        for parameter, gradient in self.reparametrised.pull_back(ways_back):
            self._add(parameter, gradient)
        for key, gradient in self._sums.items():
            if key in self._column:
                self._norms[self._column[key]] = squared_rows(gradient)
        nothing = to_float64(self._parameters[0].new_zeros(self.batch))
        return torch.stack([self._norms.get(column, nothing) for column in range(len(self._uses))], 1)

    def is_summed(self, tensor: Tensor) -> bool:
        """Whether the gradients of a parameter or reparametrised tensor are needed, to add up several uses."""
        standardised = self.reparametrised.standardised(tensor)
        source = self.reparametrised.source(tensor) if standardised is None else standardised.parameter
        parameter = tensor if source is None else source
        column = self.column(parameter)
        return column < 0 or self._uses[column] > 1 or self.reparametrised.is_mixed(parameter)

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
