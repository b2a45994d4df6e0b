"""Linear layers, on vectors [N, C] and on tokens [N, ..., C].

With a_t the input and b_t the output gradient at token t, dW = Σ_t b_t a_tᵀ. For one vector ‖dW‖² = ‖a‖²‖b‖²; for T
tokens either dW is formed, T·C·D multiplications, or ‖dW‖² = ⟨A Aᵀ, B Bᵀ⟩ over pairs of tokens, T²·(C + D).

Reference: Goodfellow 2015, "Efficient per-example gradient computations"; Li et al. 2022 (ghost norms) for tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.gram import guarded, paired
from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.tally import Tally, squared_rows


class Linear(Layer):
    """y = x Wᵀ + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.parameters = (weight, bias)

    @override
    def output(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        a, b = x.reshape(x.shape[0], -1, x.shape[-1]), gradient.reshape(gradient.shape[0], -1, gradient.shape[-1])
        tally.record(self.weight, lambda: weight_gradients(a, b), lambda: weight_norms(a, b))
        tally.record(self.bias, lambda: b.sum(1))
        return gradient @ self.weight if needs_input else None


def weight_gradients(a: Tensor, b: Tensor) -> Tensor:
    """[N, T, C], [N, T, D] -> [N, D, C]."""
    return torch.bmm(b.transpose(1, 2), a)


def weight_norms(a: Tensor, b: Tensor) -> Tensor:
    """Squared norms of `weight_gradients`, float64 [N], by the cheapest of the three forms."""
    (_, T, C), D = a.shape, b.shape[2]
    if T == 1:
        return squared_rows(a) * squared_rows(b)
    if T * (C + D) >= C * D:
        return squared_rows(weight_gradients(a, b))
    gram_a, gram_b = torch.bmm(a, a.transpose(1, 2)), torch.bmm(b, b.transpose(1, 2))
    return guarded(*paired(gram_a, gram_b), lambda rows: squared_rows(weight_gradients(a[rows], b[rows])))


def _match(call: Call) -> tuple[Layer, Tensor] | None:
    bound = call.bind(("input", "weight", "bias"), (None, None, None))
    if bound is None:
        return None
    x, weight, bias = bound
    if not call.is_batch(x) or not call.is_constant(weight, bias) or weight.ndim != 2:
        return None
    return Linear(weight, bias), x


MATCHES: dict[Callable[..., Any], Match] = {F.linear: _match}
