"""Closed forms of batch, layer, group, instance and RMS norm.

With x̂ the normalised input, dγ = Σ_t b·x̂ and dβ = Σ_t b over an image's positions. Group, instance and RMS norm are
rewritten as the norm without parameters, a product and a sum. Batch norm in eval mode, seen as [1, N·C, ...], is one image
with N·C channels: torch's own fused backward returns the input gradient and every image's dγ and dβ in one pass over
memory. The view has to be contiguous, since torch 2.15's CPU kernel misreads a single image's transposed strides
(`core.network_state`). Several rows an image, [N·m, C], become [N, C, m] first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.closed_form import Accumulator, Call, Layer, Replacement, Rule, taking
from lightning_gradood.gradients.rules.broadcast import per_sample


class BatchNorm(Layer):
    """y = γ x̂ + β with running statistics."""

    def __init__(
        self, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, epsilon: float
    ) -> None:
        super().__init__(weight, bias)
        self.mean, self.variance, self.epsilon = mean, variance, epsilon

    @override
    def output(self, x: Tensor) -> Tensor:
        # without the checks of F.batch_norm, which the network's own call has made
        (weight, bias), cudnn = self.parameters, torch.backends.cudnn.enabled
        return torch.batch_norm(x, weight, bias, self.mean, self.variance, False, 0.0, self.epsilon, cudnn)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        (N, C), (weight, bias) = x.shape[:2], self.parameters
        wide = (1, N * C, *x.shape[2:], *((1,) if x.ndim == 2 else ()))
        repeated = (
            None if tensor is None else tensor.expand(N, C).reshape(-1) for tensor in (weight, self.mean, self.variance)
        )
        inputs, weights, biases = torch.ops.aten.native_batch_norm_backward(
            gradient.reshape(wide).contiguous(), x.reshape(wide).contiguous(), *repeated, None, None,
            False, self.epsilon, [needs_input, True, True],
        )  # fmt: skip
        accumulator.record(weight, lambda: weights.view(N, C))
        accumulator.record(bias, lambda: biases.view(N, C))
        return inputs.view(x.shape) if needs_input else None


@taking("input", "running_mean", "running_var", "weight", "bias", training=False, momentum=0.1, eps=1e-5)
def _batch_norm(call: Call, given: Any) -> Replacement:
    x, mean, variance, *settings = vars(given).values()
    if given.training or not call.has_rows(x):
        return None
    if not call.is_batch(x):
        return lambda: rows_together(F.batch_norm(rows_apart(x, call.accumulator.batch), mean, variance, *settings))
    if mean is None or variance is None or call.knows(mean) or call.knows(variance):
        return None
    if not call.is_constant(given.weight, given.bias, mean, variance):
        return None
    return BatchNorm(given.weight, given.bias, mean, variance, given.eps), x


def rows_apart(x: Tensor, batch: int) -> Tensor:
    """[N·m, C, ...] -> [N, C, m, ...]: m rows of each image as a dimension of their own."""
    return x.reshape(batch, -1, *x.shape[1:]).transpose(1, 2)


def rows_together(x: Tensor) -> Tensor:
    """[N, C, m, ...] -> [N·m, C, ...]."""
    return x.transpose(1, 2).flatten(0, 1)


class LayerNorm(Layer):
    """y = γ x̂ + β over the last dimensions."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None, shape: list[int], epsilon: float) -> None:
        super().__init__(weight, bias)
        self.shape, self.epsilon = shape, epsilon

    @override
    def output(self, x: Tensor) -> Tensor:
        weight, bias = self.parameters
        y, self.mean, self.inverse = torch.native_layer_norm(x, self.shape, weight, bias, self.epsilon)
        return y

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        weights, biases = self._sums(x, gradient, accumulator.batch)
        accumulator.record(self.parameters[0], lambda: weights)
        accumulator.record(self.parameters[1], lambda: biases)
        return self._native(gradient, x, self.mean, self.inverse, [True, False, False])[0] if needs_input else None

    def _sums(self, x: Tensor, gradient: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """dγ and dβ, [N, *shape] each; for large images by torch's fused backward of each alone, which writes no x̂."""
        if x.device.type == "cpu" and x.numel() >= costs.LARGE_NORM * batch:
            images = zip(*(tensor.chunk(batch) for tensor in (gradient, x, self.mean, self.inverse)), strict=True)
            found = [self._native(b, a, mean, inverse, [False, True, True]) for b, a, mean, inverse in images]
            return torch.stack([weights for _, weights, _ in found]), torch.stack([biases for _, _, biases in found])
        normal = (x - self.mean) * self.inverse
        return per_sample(gradient * normal, batch, self.shape), per_sample(gradient, batch, self.shape)

    def _native(
        self, gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
            gradient, x, self.shape, mean, inverse, *self.parameters, wanted
        )
        return found


@taking("input", "normalized_shape", "weight", "bias", eps=1e-5)
def _layer_norm(call: Call, given: Any) -> Replacement:
    x, shape = given.input, given.normalized_shape
    if not call.has_rows(x) or not call.is_constant(given.weight, given.bias) or x.ndim <= len(shape):
        return None
    return LayerNorm(given.weight, given.bias, list(shape), given.eps), x


@taking("input", "num_groups", "weight", "bias", eps=1e-5)
def _group_norm(call: Call, given: Any) -> Replacement:
    if not call.has_rows(given.input):
        return None
    return lambda: _affine(F.group_norm(given.input, given.num_groups, None, None, given.eps), given)


@taking("input", "running_mean", "running_var", "weight", "bias", use_input_stats=True, momentum=0.1, eps=1e-5)
def _instance_norm(call: Call, given: Any) -> Replacement:
    statistics = given.running_mean, given.running_var
    if not call.has_rows(given.input) or any(map(call.knows, statistics)):
        return None
    settings = (*statistics, None, None, given.use_input_stats, given.momentum, given.eps)
    return lambda: _affine(F.instance_norm(given.input, *settings), given)


@taking("input", "normalized_shape", "weight", "eps")
def _rms_norm(call: Call, given: Any) -> Replacement:
    if not call.has_rows(given.input) or not call.knows(given.weight):
        return None
    return lambda: F.rms_norm(given.input, given.normalized_shape, None, given.eps) * given.weight


def _affine(normal: Tensor, given: Any) -> Tensor:
    """Multiply by γ and add β, one entry per channel; as reparametrised tensors they gain the spatial dimensions."""
    ones = (1,) * (normal.ndim - 2)
    if given.weight is not None:
        normal = normal * given.weight.view(-1, *ones)
    return normal if given.bias is None else normal + given.bias.view(-1, *ones)


RULES: dict[Callable[..., Any], Rule] = {
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.rms_norm: _rms_norm,
}
