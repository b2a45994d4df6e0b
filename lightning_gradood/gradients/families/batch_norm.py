"""Batch norm in eval mode: with x̂ = (x − running mean) / √(running variance + ε), dγ = Σ_t b·x̂ and dβ = Σ_t b.

Seen as [1, N·C, ...], a batch is one image with N·C channels, and torch's own fused backward returns the input gradient
and every image's dγ and dβ in one pass over memory. The view has to be contiguous: a lone image's may keep the strides of
a transposed one, which torch 2.15's CPU kernel mistakes for channels last and silently reads wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.tally import Tally


class BatchNorm(Layer):
    """y = γ x̂ + β with running statistics."""

    def __init__(
        self, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> None:
        self.mean, self.variance, self.weight, self.bias, self.epsilon = (mean, variance, weight, bias, epsilon)
        self.parameters = (weight, bias)

    @override
    def output(self, x: Tensor) -> Tensor:
        # without the checks of F.batch_norm, which the network's own call has made
        return torch.batch_norm(
            x, self.weight, self.bias, self.mean, self.variance, False, 0.0, self.epsilon, torch.backends.cudnn.enabled
        )

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        N, C = x.shape[:2]
        wide = (1, N * C, *x.shape[2:], *((1,) if x.ndim == 2 else ()))
        weight, mean, variance = (
            None if tensor is None else torch.cat([tensor] * N) for tensor in (self.weight, self.mean, self.variance)
        )
        inputs, weights, biases = torch.ops.aten.native_batch_norm_backward(
            gradient.reshape(wide).contiguous(), x.reshape(wide).contiguous(), weight, mean, variance, None, None,
            False, self.epsilon, [needs_input, True, True],
        )  # fmt: skip
        tally.record(self.weight, lambda: weights.view(N, C))
        tally.record(self.bias, lambda: biases.view(N, C))
        return inputs.view(x.shape) if needs_input else None


def _match(call: Call) -> tuple[Layer, Tensor] | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    bound = call.bind(names, (None, None, None, None, None, False, 0.1, 1e-5))
    if bound is None:
        return None
    x, mean, variance, weight, bias, training, _, epsilon = bound
    if training or mean is None or variance is None or not call.is_batch(x):
        return None
    if not call.is_constant(weight, bias, mean, variance) or call.tally.knows(mean) or call.tally.knows(variance):
        return None
    return BatchNorm(mean, variance, weight, bias, epsilon), x


MATCHES: dict[Callable[..., Any], Match] = {F.batch_norm: _match}
