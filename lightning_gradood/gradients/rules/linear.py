"""Closed forms of linear layers, products with a matrix, embeddings and PReLU.

Linear: on vectors [N, C] and on tokens [N, ..., C] or [N·m, ..., C]. With a_t the input and b_t the output gradient at
token t, dW = Σ_t b_t a_tᵀ. For one vector ‖dW‖² = ‖a‖²‖b‖²; for T tokens either dW is formed, T·C·D multiplications, or
‖dW‖² = ⟨A Aᵀ, B Bᵀ⟩ over pairs of tokens, T²·(C + D). Embedding: row v of the table receives Σ b_t over an image's
tokens t with index v. PReLU: y = x where x > 0, else θ x, with one slope or one per channel; dθ = Σ b·min(x, 0).

Reference: Goodfellow 2015, "Efficient per-example gradient computations"; Li et al. 2022 (ghost norms) for tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.accumulator import Accumulator, guarded, paired_products, squared_rows
from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.rules.broadcast import per_sample


class Embedding(Layer):
    """y = table[index]; its input is the index, through which no gradient flows."""

    def __init__(self, table: Tensor, padding: int | None) -> None:
        self.table, self.padding = table, padding
        self.parameters = (table,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.table)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        accumulator.record(self.table, lambda: self._gradients(x.flatten(1), gradient))
        return None

    def _gradients(self, index: Tensor, gradient: Tensor) -> Tensor:
        N, (V, D) = index.shape[0], self.table.shape
        gradients = gradient.new_zeros(N, V, D)
        gradients.scatter_add_(1, index[:, :, None].expand(-1, -1, D), gradient.reshape(N, -1, D))
        if self.padding is not None:
            gradients[:, self.padding] = 0
        return gradients


def _match_embedding(call: Call) -> tuple[Layer, Tensor] | None:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    bound = call.bind(names, (None, None, None, None, 2.0, False, False))
    if bound is None:
        return None
    index, table, padding, max_norm, _, by_frequency, _ = bound
    fits = isinstance(index, Tensor) and index.ndim >= 2 and index.shape[0] == call.accumulator.batch
    if not fits or not call.accumulator.knows(table) or max_norm is not None or by_frequency:
        return None
    return Embedding(table, padding), index


EMBEDDING_MATCHES: dict[Callable[..., Any], Match] = {F.embedding: _match_embedding}


class Linear(Layer):
    """y = x Wᵀ + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.parameters = (weight, bias)

    @override
    def output(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        a, b = (tensor.reshape(accumulator.batch, -1, tensor.shape[-1]) for tensor in (x, gradient))
        accumulator.record(self.weight, lambda: weight_gradients(a, b), lambda: weight_norms(a, b))
        accumulator.record(self.bias, lambda: b.sum(1))
        return gradient @ self.weight if needs_input else None


class MatrixProduct(Layer):
    """y = x W."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.parameters = (weight,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return x @ self.weight

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        a, b = (tensor.reshape(accumulator.batch, -1, tensor.shape[-1]) for tensor in (x, gradient))
        accumulator.record(self.weight, lambda: weight_gradients(b, a), lambda: weight_norms(a, b))
        return gradient @ self.weight.T if needs_input else None


def weight_gradients(a: Tensor, b: Tensor) -> Tensor:
    """[N, T, C], [N, T, D] -> [N, D, C]."""
    return torch.bmm(b.transpose(1, 2), a)


def weight_norms(a: Tensor, b: Tensor) -> Tensor:
    """Squared norms of `weight_gradients`, float64 [N], by the cheapest of the three forms."""
    (_, T, C), D = a.shape, b.shape[2]
    if T == 1:
        return squared_rows(a) * squared_rows(b)
    if costs.TOKEN_PAIR * T * (C + D) >= C * D:
        return _through_gradients(a, b)
    pair = paired_products(a.transpose(1, 2), b.transpose(1, 2))
    return guarded(*pair, lambda rows: _through_gradients(a[rows], b[rows]))


def _through_gradients(a: Tensor, b: Tensor) -> Tensor:
    """`weight_norms` through `weight_gradients`, of few images at a time where dW is large."""
    step = max(1, costs.limits(a.device).chunk // (a.shape[2] * b.shape[2]))
    if step >= a.shape[0]:
        return squared_rows(weight_gradients(a, b))
    parts = zip(torch.split(a, step), torch.split(b, step), strict=True)
    return torch.cat([squared_rows(weight_gradients(*part)) for part in parts])


def _match_linear(call: Call) -> tuple[Layer, Tensor] | None:
    bound = call.bind(("input", "weight", "bias"), (None, None, None))
    if bound is None:
        return None
    x, weight, bias = bound
    if not call.has_rows(x) or not call.is_constant(weight, bias) or weight.ndim != 2:
        return None
    return Linear(weight, bias), x


def _match_product(call: Call) -> tuple[Layer, Tensor] | None:
    if len(call.args) != 2 or call.kwargs:
        return None
    x, weight = call.args
    if not call.has_rows(x) or not call.accumulator.knows(weight) or weight.ndim != 2:
        return None
    return MatrixProduct(weight), x


MATCHES: dict[Callable[..., Any], Match] = {
    F.linear: _match_linear,
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), _match_product),
}


class PReLU(Layer):
    """y = max(x, 0) + θ min(x, 0)."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope
        self.parameters = (slope,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return torch.prelu(x, self.slope)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        spatial = (1,) * (x.ndim - 2)
        accumulator.record(
            self.slope,
            lambda: per_sample(gradient * x.clamp(max=0), accumulator.batch, (*self.slope.shape, *spatial)).flatten(1),
        )
        return torch.where(x > 0, gradient, gradient * self.slope.view(-1, *spatial)) if needs_input else None


def _match_prelu(call: Call) -> tuple[Layer, Tensor] | None:
    bound = call.bind(("input", "weight"), (None, None))
    if bound is None or not call.has_rows(bound[0]) or not call.accumulator.knows(bound[1]) or bound[1].ndim != 1:
        return None
    return PReLU(bound[1]), bound[0]


PRELU_MATCHES: dict[Callable[..., Any], Match] = {
    F.prelu: _match_prelu,
    torch.prelu: _match_prelu,
    Tensor.prelu: _match_prelu,
}
