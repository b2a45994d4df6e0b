"""Closed forms of batch, layer, group, instance and RMS norm.

With x̂ the normalised input, dγ = Σ_t b·x̂ and dβ = Σ_t b over an image's positions. Group, instance and RMS norm are
rewritten as the norm without parameters, a product and a sum.

For batch norm in eval mode, x̂ = (x − running mean) / √(running variance + ε). Seen as [1, N·C, ...], a batch is one
image with N·C channels, and torch's own fused backward returns the input gradient and every image's dγ and dβ in one
pass over memory. The view has to be contiguous: a single image's may keep the strides of a transposed one, which torch
2.15's CPU kernel mistakes for channels last and reads in the wrong order without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.accumulator import Accumulator
from lightning_gradood.gradients.layer import Call, Layer, Match, Rewrite
from lightning_gradood.gradients.rules.broadcast import per_sample


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
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        N, C = x.shape[:2]
        wide = (1, N * C, *x.shape[2:], *((1,) if x.ndim == 2 else ()))
        weight, mean, variance = (
            None if tensor is None else tensor.expand(N, C).reshape(-1)
            for tensor in (self.weight, self.mean, self.variance)
        )
        inputs, weights, biases = torch.ops.aten.native_batch_norm_backward(
            gradient.reshape(wide).contiguous(), x.reshape(wide).contiguous(), weight, mean, variance, None, None,
            False, self.epsilon, [needs_input, True, True],
        )  # fmt: skip
        accumulator.record(self.weight, lambda: weights.view(N, C))
        accumulator.record(self.bias, lambda: biases.view(N, C))
        return inputs.view(x.shape) if needs_input else None


def _match_batch_norm(call: Call) -> tuple[Layer, Tensor] | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    bound = call.bind(names, (None, None, None, None, None, False, 0.1, 1e-5))
    if bound is None:
        return None
    x, mean, variance, weight, bias, training, _, epsilon = bound
    if training or mean is None or variance is None or not call.is_batch(x):
        return None
    if (
        not call.is_constant(weight, bias, mean, variance)
        or call.accumulator.knows(mean)
        or call.accumulator.knows(variance)
    ):
        return None
    return BatchNorm(mean, variance, weight, bias, epsilon), x


BATCH_NORM_MATCHES: dict[Callable[..., Any], Match] = {F.batch_norm: _match_batch_norm}


class LayerNorm(Layer):
    """y = γ x̂ + β over the last dimensions."""

    def __init__(self, shape: list[int], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> None:
        self.shape, self.weight, self.bias, self.epsilon = shape, weight, bias, epsilon
        self.parameters = (weight, bias)

    @override
    def output(self, x: Tensor) -> Tensor:
        y, self.mean, self.inverse = torch.native_layer_norm(x, self.shape, self.weight, self.bias, self.epsilon)
        return y

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        weights, biases = self._sums(x, gradient, accumulator.batch)
        accumulator.record(self.weight, lambda: weights)
        accumulator.record(self.bias, lambda: biases)
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
            gradient, x, self.shape, mean, inverse, self.weight, self.bias, wanted
        )
        return found


def _match_layer_norm(call: Call) -> tuple[Layer, Tensor] | None:
    names, defaults = (("input", "normalized_shape", "weight", "bias", "eps"), (None, None, None, None, 1e-5))
    bound = call.bind(names, defaults)
    if bound is None:
        return None
    x, shape, weight, bias, epsilon = bound
    if not call.has_rows(x) or not call.is_constant(weight, bias) or x.ndim <= len(shape):
        return None
    return LayerNorm(list(shape), weight, bias, epsilon), x


def _rewrite_group_norm(call: Call) -> Callable[[], Tensor] | None:
    bound = call.bind(("input", "num_groups", "weight", "bias", "eps"), (None, None, None, None, 1e-5))
    if bound is None or not call.has_rows(bound[0]):
        return None
    x, groups, weight, bias, epsilon = bound
    return lambda: _affine(F.group_norm(x, groups, None, None, epsilon), weight, bias)


def _rewrite_instance_norm(call: Call) -> Callable[[], Tensor] | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    bound = call.bind(names, (None, None, None, None, None, True, 0.1, 1e-5))
    if bound is None or not call.has_rows(bound[0]):
        return None
    x, mean, variance, weight, bias, own_statistics, momentum, epsilon = bound
    if call.accumulator.knows(mean) or call.accumulator.knows(variance):
        return None
    return lambda: _affine(
        F.instance_norm(x, mean, variance, None, None, own_statistics, momentum, epsilon), weight, bias
    )


def _rewrite_rms_norm(call: Call) -> Callable[[], Tensor] | None:
    bound = call.bind(("input", "normalized_shape", "weight", "eps"), (None, None, None, None))
    if bound is None or not call.has_rows(bound[0]) or not call.accumulator.knows(bound[2]):
        return None
    x, shape, weight, epsilon = bound
    return lambda: F.rms_norm(x, shape, None, epsilon) * weight


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Multiply by γ and add β, one entry per channel; as reparametrised tensors they gain the spatial dimensions."""
    ones = (1,) * (normal.ndim - 2)
    if weight is not None:
        normal = normal * weight.view(-1, *ones)
    return normal if bias is None else normal + bias.view(-1, *ones)


MATCHES: dict[Callable[..., Any], Match] = {F.layer_norm: _match_layer_norm}
REWRITES: dict[Callable[..., Any], Rewrite] = {
    F.group_norm: _rewrite_group_norm,
    F.instance_norm: _rewrite_instance_norm,
    F.rms_norm: _rewrite_rms_norm,
}
