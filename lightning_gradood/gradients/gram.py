"""Inner products of Gram matrices, and the guard for rows where they cancel.

For dW = B Aᵀ (A [C, T], B [D, T]) the squared norm is ⟨AᵀA, BᵀB⟩: exact algebra, but a sum of terms of both signs. Its
relative error is about the machine epsilon divided by ρ = ‖dW‖² / (tr AᵀA · tr BᵀB), so rows with a small ρ are
computed again through dW itself. ρ costs nothing: both matrices are at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST_RATIO = 1e-4  # keeps float32 below about 1e-4 relative error and float64 below 1e-11


def paired(gram_a: Tensor, gram_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ⟨A, B⟩ and tr A · tr B for each image; [N, T, T] twice -> float64 [N] twice.

    Where a matrix is near the smallest numbers of its dtype the traces are infinite: `guarded` then distrusts the row.
    """
    inner = (gram_a * gram_b).flatten(1).sum(1, dtype=torch.float64)  # a dot product in float32 loses another digit
    trace_a, trace_b = _trace(gram_a), _trace(gram_b)
    info = torch.finfo(gram_a.dtype)
    vanishing = torch.minimum(trace_a, trace_b) < gram_a.shape[1] * info.tiny / info.eps
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


def _trace(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64)
