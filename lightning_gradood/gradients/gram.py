"""Inner products of Gram matrices, and the guard for rows where they cancel.

For dW = B Aᵀ (A [C, T], B [D, T]) the squared norm is ⟨AᵀA, BᵀB⟩: exact algebra, but a sum of terms of both signs. Its
relative error is about the machine epsilon divided by ρ = ‖dW‖² / (tr AᵀA · tr BᵀB), so rows with a small ρ are
computed again through dW itself. ρ costs nothing: both matrices are at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_gradood.gradients.precision import hosted

SMALLEST_RATIO = 1e-4  # keeps float32 below about 1e-4 relative error and float64 below 1e-11
_STRIP = 64  # rows, fewer of which keep a matrix product from its speed


def paired(gram: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ⟨A, bᵀb⟩ and tr A · tr bᵀb for each image, float64 [N] twice, on the CPU for devices without float64.

    Both matrices are symmetric: of bᵀb, only strips of rows from the diagonal on are computed, and what is right of the
    diagonal's blocks counts twice. Where a matrix is near the smallest numbers of its dtype the traces are infinite:
    `guarded` then distrusts the row.

    Args:
        gram: A, [N, T, T].
        b: [N, D, T].
    """
    return _paired(lambda start, stop: gram[:, start:stop, start:], b)


def paired_products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `paired` does for A = aᵀa, a [N, C, T], of which strips are all that is computed."""
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
    """Replace the rows whose Gram form cancels, or is too small for its dtype, by a form that does not.

    Args:
        inner: ⟨AᵀA, BᵀB⟩, float64 [N].
        traces: tr AᵀA · tr BᵀB, float64 [N].
        again: takes row indices, returns these rows' squared norms through dW.
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
    return hosted(matrices.sum(2)).sum(1, dtype=torch.float64)


def _trace(matrices: Tensor) -> Tensor:
    return hosted(matrices.diagonal(dim1=1, dim2=2)).sum(1, dtype=torch.float64)
