"""Layer, group, instance and RMS norm: with x̂ the normalised input, dγ = Σ_t b·x̂ and dβ = Σ_t b over an image's positions.

All but layer norm are spelt out as the norm without parameters, a product and a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.families.broadcast import per_sample
from lightning_gradood.gradients.layer import Call, Layer, Match, Rewrite
from lightning_gradood.gradients.tally import Tally


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
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        weights, biases = self._sums(x, gradient, tally.batch)
        tally.record(self.weight, lambda: weights)
        tally.record(self.bias, lambda: biases)
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


def _match(call: Call) -> tuple[Layer, Tensor] | None:
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
    if call.tally.knows(mean) or call.tally.knows(variance):
        return None
    return lambda: _affine(
        F.instance_norm(x, mean, variance, None, None, own_statistics, momentum, epsilon), weight, bias
    )


def _rewrite_rms_norm(call: Call) -> Callable[[], Tensor] | None:
    bound = call.bind(("input", "normalized_shape", "weight", "eps"), (None, None, None, None))
    if bound is None or not call.has_rows(bound[0]) or not call.tally.knows(bound[2]):
        return None
    x, shape, weight, epsilon = bound
    return lambda: F.rms_norm(x, shape, None, epsilon) * weight


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ and β have one entry per channel; as derived tensors they gain the spatial dimensions."""
    ones = (1,) * (normal.ndim - 2)
    if weight is not None:
        normal = normal * weight.view(-1, *ones)
    return normal if bias is None else normal + bias.view(-1, *ones)


MATCHES: dict[Callable[..., Any], Match] = {F.layer_norm: _match}
REWRITES: dict[Callable[..., Any], Rewrite] = {
    F.group_norm: _rewrite_group_norm,
    F.instance_norm: _rewrite_instance_norm,
    F.rms_norm: _rewrite_rms_norm,
}
