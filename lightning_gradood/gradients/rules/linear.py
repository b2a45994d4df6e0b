"""Closed forms of products with a matrix, or a stack of them: linear layers, `einsum`, embeddings, attention.

Linear: on vectors [N, C] and on tokens [N, ..., C] or [N·m, ..., C]. With a_t the input and b_t the output gradient at
token t, dW = Σ_t b_t a_tᵀ. For one vector ‖dW‖² = ‖a‖²‖b‖²; for T tokens either dW is formed, T·C·D multiplications, or
‖dW‖² = ⟨A Aᵀ, B Bᵀ⟩ over pairs of tokens, T²·(C + D) (Goodfellow 2015; Li et al. 2022, "ghost norms").

Other products are written as an einsum y = x, θ -> y with a letter for each dimension: the input gradient is y, θ -> x
and the parameter's x, y -> θ; with the batch's letter added to its result, it is every image's own. Embedding: row v of
the table receives Σ b_t over an image's tokens t with index v. Attention with parameters is spelt out in these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients import closed_form, costs
from lightning_gradood.gradients.closed_form import Accumulator, Call, Layer, Replacement, Rule, squared_rows, taking


class Linear(Layer):
    """y = x Wᵀ + b."""

    @override
    def output(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.parameters)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        weight, bias = self.parameters
        a, b = (tensor.reshape(accumulator.batch, -1, tensor.shape[-1]) for tensor in (x, gradient))
        accumulator.record(weight, lambda: weight_gradients(a, b), lambda: weight_norms(a, b))
        accumulator.record(bias, lambda: b.sum(1))
        return gradient @ weight if needs_input else None


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
    pair = closed_form.paired(lambda start, stop: closed_form.strip(a.transpose(1, 2), start, stop), b.transpose(1, 2))
    return closed_form.guarded(*pair, lambda rows: _through_gradients(a[rows], b[rows]))


def _through_gradients(a: Tensor, b: Tensor) -> Tensor:
    """`weight_norms` through `weight_gradients`, of few images at a time where dW is large."""
    step = max(1, costs.limits(a.device).chunk // (a.shape[2] * b.shape[2]))
    parts = zip(torch.split(a, step), torch.split(b, step), strict=True)
    return torch.cat([squared_rows(weight_gradients(*part)) for part in parts])


@taking("input", "weight", "bias")
def _linear(call: Call, given: Any) -> Replacement:
    x, weight, bias = given.input, given.weight, given.bias
    fits = call.has_rows(x) and call.is_constant(weight, bias) and weight.ndim == 2
    return (Linear(weight, bias), x) if fits else None


class Contraction(Layer):
    """y = einsum(x, θ) for letters of x, θ and y; x and y begin with the batch's letter, which θ does not have."""

    def __init__(self, parameter: Tensor, letters: tuple[str, str, str]) -> None:
        super().__init__(parameter)
        self.x, self.letters, self.y = letters

    @override
    def output(self, x: Tensor) -> Tensor:
        return torch.einsum(f"{self.x},{self.letters}->{self.y}", x, self.parameters[0])

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        parameter = self.parameters[0]
        accumulator.record(parameter, lambda: self._gradients(x, gradient, accumulator.batch))
        return torch.einsum(f"{self.y},{self.letters}->{self.x}", gradient, parameter) if needs_input else None

    def _gradients(self, x: Tensor, gradient: Tensor, batch: int) -> Tensor:
        """[N, *shape]; Z counts the rows of each image."""
        a, b = (tensor.reshape(batch, -1, *tensor.shape[1:]) for tensor in (x, gradient))
        return torch.einsum(f"{self.x[0]}Z{self.x[1:]},{self.x[0]}Z{self.y[1:]}->{self.x[0]}{self.letters}", a, b)


def _contraction(call: Call, x: Any, parameter: Any, letters: tuple[str, str, str]) -> Replacement:
    """Check that the three gradients are what the class says: no letter twice or in one place alone, no stretching."""
    of_x, of_parameter, of_y = letters
    if not call.has_rows(x) or not call.knows(parameter):
        return None
    if any(len(set(term)) != len(term) or not term.isalpha() or "Z" in term for term in letters):
        return None
    if (x.ndim, parameter.ndim) != (len(of_x), len(of_parameter)) or of_x[0] != of_y[:1] or of_x[0] in of_parameter:
        return None
    alone = (set(of_x) - set(of_parameter + of_y)) | (set(of_parameter) - set(of_x + of_y))
    sizes = dict(zip(of_parameter, parameter.shape, strict=True))
    if alone or any(sizes.get(letter, size) != size for letter, size in zip(of_x, x.shape, strict=True)):
        return None
    return Contraction(parameter, letters), x


def _einsum(call: Call) -> Replacement:
    if len(call.args) != 3 or call.kwargs or not isinstance(call.args[0], str):
        return None
    equation, first, second = call.args
    terms, arrow, of_y = equation.replace(" ", "").partition("->")
    if not arrow or terms.count(",") != 1:
        return None
    of_first, of_second = terms.split(",")
    if call.knows(first):
        return _contraction(call, second, first, (of_second, of_first, of_y))
    return _contraction(call, first, second, (of_first, of_second, of_y))


@taking("input", "other")
def _product(call: Call, given: Any) -> Replacement:
    """θ @ x, and x @ θ where θ has a matrix for each head; x @ θ of one matrix is a linear layer."""
    x, parameter, on_left = given.input, given.other, call.knows(given.input)
    if on_left:
        x, parameter = parameter, x
    if not call.knows(parameter):
        return None
    if parameter.ndim == 2 and not on_left:
        return (lambda: F.linear(x, parameter.t())) if call.has_rows(x) else None
    if call.has_rows(x) and 2 <= parameter.ndim <= x.ndim:
        stacked = "abcdefgh"[: x.ndim - 2]
        own = stacked[len(stacked) - (parameter.ndim - 2) :]
        letters = f"{stacked}ij", f"{own}jk", f"{stacked}ik"
        if on_left:
            letters = f"{stacked}jk", f"{own}ij", f"{stacked}ik"
        if (found := _contraction(call, x, parameter, letters)) is not None:
            return found
    if not call.is_activation(x) or parameter.ndim < 3 or parameter.shape[0] != 1:
        return None
    return lambda: parameter[0] @ x if on_left else x @ parameter[0]


def _sum_and_product(first: str, second: str) -> Rule:
    """`addmm` and `baddbmm`: input + first @ second."""

    @taking("input", first, second, beta=1, alpha=1)
    def rule(call: Call, given: Any) -> Replacement:
        left, right = getattr(given, first), getattr(given, second)
        return (lambda: left @ right + given.input) if (given.beta, given.alpha) == (1, 1) else None

    return rule


class Embedding(Layer):
    """y = table[index]; its input is the index, through which no gradient flows."""

    def __init__(self, table: Tensor, padding: int | None) -> None:
        super().__init__(table)
        self.padding = padding

    @override
    def output(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.parameters[0])

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        accumulator.record(self.parameters[0], lambda: self._gradients(x.flatten(1), gradient))
        return None

    def _gradients(self, index: Tensor, gradient: Tensor) -> Tensor:
        N, (V, D) = index.shape[0], self.parameters[0].shape
        gradients = gradient.new_zeros(N, V, D)
        gradients.scatter_add_(1, index[:, :, None].expand(-1, -1, D), gradient.reshape(N, -1, D))
        if self.padding is not None:
            gradients[:, self.padding] = 0
        return gradients


@taking("input", "weight", "padding_idx", "max_norm", norm_type=2.0, scale_grad_by_freq=False, sparse=False)
def _embedding(call: Call, given: Any) -> Replacement:
    index = given.input
    fits = isinstance(index, Tensor) and index.ndim >= 2 and index.shape[0] == call.accumulator.batch
    if not fits or not call.knows(given.weight) or given.max_norm is not None or given.scale_grad_by_freq:
        return None
    return Embedding(given.weight, given.padding_idx), index


@taking(
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", training=True, key_padding_mask=None,
    need_weights=True, attn_mask=None, use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None,
    v_proj_weight=None, static_k=None, static_v=None, average_attn_weights=True, is_causal=False,
)  # fmt: skip
def _attention(call: Call, given: Any) -> Replacement:
    """Self-attention without masks and the like: [tokens, N, E] -> [tokens, N, E], and its weights if asked for."""
    unusual = (
        given.bias_k, given.bias_v, given.add_zero_attn, given.key_padding_mask, given.attn_mask, given.static_k,
        given.static_v, given.use_separate_proj_weight, given.is_causal, bool(given.training and given.dropout_p),
    )  # fmt: skip
    x = given.query
    if given.key is not x or given.value is not x or x.ndim != 3 or x.shape[1] != call.accumulator.batch:
        return None
    return None if any(one is not None and one is not False for one in unusual) else lambda: _self_attention(given)


def _self_attention(given: Any) -> tuple[Tensor, Tensor | None]:
    x = given.query.transpose(0, 1)  # linear layers see [N, ...]
    N, T, E = x.shape
    projected = F.linear(x, given.in_proj_weight, given.in_proj_bias)
    heads = projected.view(N, T, 3, given.num_heads, E // given.num_heads).permute(2, 0, 3, 1, 4)
    if given.need_weights:
        weights = (heads[0] / heads.shape[-1] ** 0.5 @ heads[1].transpose(-2, -1)).softmax(-1)
        mixed = weights @ heads[2]
        weights = weights.mean(1) if given.average_attn_weights else weights
    else:
        weights, mixed = None, F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
    mixed = mixed.transpose(1, 2).reshape(N, T, E)
    return F.linear(mixed, given.out_proj_weight, given.out_proj_bias).transpose(0, 1), weights


@taking("query", "key", "value", "attn_mask", dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)
def _dot_products(call: Call, given: Any) -> Replacement:
    query, key, value, bias = given.query, given.key, given.value, given.attn_mask
    if given.dropout_p or given.is_causal or given.enable_gqa:
        return None
    if not call.is_activation(query, key, value) or not call.knows(bias):
        return None
    factor = query.shape[-1] ** -0.5 if given.scale is None else given.scale
    return lambda: (query * factor @ key.transpose(-2, -1) + bias).softmax(-1) @ value


_PRODUCTS = (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__)
RULES: dict[Callable[..., Any], Rule] = {
    F.linear: _linear,
    torch.einsum: _einsum,
    F.embedding: _embedding,
    F.multi_head_attention_forward: _attention,
    F.scaled_dot_product_attention: _dot_products,
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _sum_and_product("mat1", "mat2")),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _sum_and_product("batch1", "batch2")),
}
