"""Attention, spelt out in operations that have closed forms.

The multi-head layer becomes linear layers around scaled dot products without parameters. Dot products with a bias made
of parameters, e.g. relative positions, become matrix products, a sum and a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lightning_gradood.gradients.layer import Call, Rewrite

_NAMES = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights",
    "attn_mask", "use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "static_k", "static_v",
    "average_attn_weights", "is_causal",
)  # fmt: skip
_FLAGS = {"training": True, "need_weights": True, "use_separate_proj_weight": False, "average_attn_weights": True}
_DEFAULTS = tuple(_FLAGS.get(name, False if name == "is_causal" else None) for name in _NAMES)
_UNUSUAL = (
    "bias_k", "bias_v", "add_zero_attn", "key_padding_mask", "attn_mask", "use_separate_proj_weight",
    "static_k", "static_v", "is_causal",
)  # fmt: skip


def _rewrite(call: Call) -> Callable[[], tuple[Tensor, Tensor | None]] | None:
    bound = call.bind(_NAMES, _DEFAULTS)
    if bound is None:
        return None
    given = dict(zip(_NAMES, bound, strict=True))
    x = given["query"]
    if given["key"] is not x or given["value"] is not x or x.ndim != 3 or x.shape[1] != call.accumulator.batch:
        return None
    if (given["training"] and given["dropout_p"]) or any(_is_set(given[name]) for name in _UNUSUAL):
        return None
    return lambda: _self_attention(given)


def _is_set(value: Any) -> bool:
    return value is not None and value is not False


def _self_attention(given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """[tokens, N, E] -> [tokens, N, E] and the attention weights if asked for; linear layers see [N, ...]."""
    x = given["query"].transpose(0, 1)
    N, T, E = x.shape
    projected = F.linear(x, given["in_proj_weight"], given["in_proj_bias"])
    heads = projected.view(N, T, 3, given["num_heads"], E // given["num_heads"]).permute(2, 0, 3, 1, 4)
    if given["need_weights"]:
        weights = (heads[0] / heads.shape[-1] ** 0.5 @ heads[1].transpose(-2, -1)).softmax(-1)
        mixed = weights @ heads[2]
        weights = weights.mean(1) if given["average_attn_weights"] else weights
    else:
        weights, mixed = None, F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
    mixed = mixed.transpose(1, 2).reshape(N, T, E)
    return F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"]).transpose(0, 1), weights


def _rewrite_products(call: Call) -> Callable[[], Tensor] | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    bound = call.bind(names, (None, None, None, None, 0.0, False, None, False))
    if bound is None:
        return None
    query, key, value, bias, dropout, causal, scale, grouped = bound
    if not call.is_activation(query, key, value) or not call.accumulator.knows(bias) or dropout or causal or grouped:
        return None
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return lambda: (query * factor @ key.transpose(-2, -1) + bias).softmax(-1) @ value


REWRITES: dict[Callable[..., Any], Rewrite] = {
    F.multi_head_attention_forward: _rewrite,
    F.scaled_dot_product_attention: _rewrite_products,
}
