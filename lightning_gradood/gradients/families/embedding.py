"""Embeddings: row v of the table receives Σ b_t over an image's tokens t with index v."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.tally import Tally


class Embedding(Layer):
    """y = table[index]; its input is the index, through which no gradient flows."""

    def __init__(self, table: Tensor, padding: int | None) -> None:
        self.table, self.padding = table, padding
        self.parameters = (table,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.table)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        tally.record(self.table, lambda: self._gradients(x.flatten(1), gradient))
        return None

    def _gradients(self, index: Tensor, gradient: Tensor) -> Tensor:
        N, (V, D) = index.shape[0], self.table.shape
        gradients = gradient.new_zeros(N, V, D)
        gradients.scatter_add_(1, index[:, :, None].expand(-1, -1, D), gradient.reshape(N, -1, D))
        if self.padding is not None:
            gradients[:, self.padding] = 0
        return gradients


def _match(call: Call) -> tuple[Layer, Tensor] | None:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    bound = call.bind(names, (None, None, None, None, 2.0, False, False))
    if bound is None:
        return None
    index, table, padding, max_norm, _, by_frequency, _ = bound
    fits = isinstance(index, Tensor) and index.ndim >= 2 and index.shape[0] == call.tally.batch
    if not fits or not call.tally.knows(table) or max_norm is not None or by_frequency:
        return None
    return Embedding(table, padding), index


MATCHES: dict[Callable[..., Any], Match] = {F.embedding: _match}
