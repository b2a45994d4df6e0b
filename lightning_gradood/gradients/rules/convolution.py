"""Closed forms of convolutions in 1, 2 and 3 dimensions, transposed and standardised ones too.

‖dW‖² is computed by the cheapest of six forms (`convolution_forms`), db = Σ_t b. A standardised weight (BiT, NFNet; Qiao
et al. 2019) has each output channel's mean removed and is divided by its standard deviation. With g = dW, θ̂ the
standardised weight, M its entries for each output channel, s = 1/√(variance + ε) and a factor a,

    dθ_d = a_d s_d (g_d − mean(g_d) − θ̂_d · mean(g_d θ̂_d)),    da_d = Σ g_d θ̂_d.

Only ‖a s g‖² needs a convolution's closed form, that of an output gradient times a s. With b the output gradient, Σ g_d
is Σ_t b · (x ∗ 1), and Σ g_d θ̂_d is Σ_t b · (x ∗ θ̂), which the forward pass has computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.core import to_float64
from lightning_gradood.gradients import costs
from lightning_gradood.gradients.closed_form import Accumulator, Call, Layer, Replacement, Rule, squared_rows, taking
from lightning_gradood.gradients.reparametrised import Standardised
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.gradients.rules.convolution_forms import Geometry
from lightning_gradood.gradients.rules.normalisation import rows_apart, rows_together

Form = Callable[..., Tensor]


class Convolution(Layer):
    """y = x ∗ W + b, or its transpose."""

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        super().__init__(weight, bias)
        self.weight, self.bias, self.geometry = weight, bias, geometry
        self._products: dict[int, Tensor] = {}  # AᵀA of each chunk, where several label designs share it

    @override
    def output(self, x: Tensor) -> Tensor:
        return self._convolved(x, self.weight, self.bias)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        g = self.geometry
        return torch.convolution(
            x, weight, bias, g.stride, g.padding, g.dilation, g.transposed, g.output_padding, g.groups
        )

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        gradient, g = gradient.contiguous(), self.geometry
        inputs = forms.input_gradient(x, gradient, self.weight, g) if needs_input else None
        accumulator.record(
            self.weight, lambda: forms.weight_gradients(x, gradient, g), lambda: self._norms(x, gradient, accumulator)
        )
        accumulator.record(self.bias, lambda: gradient.flatten(2).sum(2))
        return inputs

    def _norms(self, a: Tensor, b: Tensor, accumulator: Accumulator) -> Tensor:
        """Squared norms of every image's dW, float64 [N], by the cheapest form, in chunks that stay in cache."""
        size = size_of(a.shape[1], b.shape[1], tuple(a.shape[2:]), tuple(b.shape[2:]), self.geometry)
        form, step = cheapest(size, self.geometry, costs.limits(a.device))
        norms = []
        for part, (x, y) in enumerate(zip(torch.split(a, step), torch.split(b, step), strict=True)):
            if form in (forms.products, forms.pixel_products):
                products = self._products[part] if part in self._products else form(x, self.geometry)
                if accumulator.passes > 1:
                    self._products[part] = products
                norms.append(forms.from_products(products, x, y, self.geometry))
            else:
                norms.append(form(x, y, self.geometry))
        return torch.cat(norms)


@lru_cache(maxsize=4096)
def size_of(C: int, D: int, pixels: tuple[int, ...], positions: tuple[int, ...], geometry: Geometry) -> costs.Size:
    """Return what the costs depend on, for a convolution from C × `pixels` to D × `positions`."""
    pairs, sums = 0, -1  # the first phase is not added
    for phases in itertools.product(*(geometry.phases(axis).items() for axis in range(len(pixels)))):
        lengths = [len(range(phase, n, s)) for (phase, _), n, s in zip(phases, pixels, geometry.stride, strict=True)]
        pairs += math.prod(lengths) ** 2
        sums += 1 + sum(1 + len(shifts) for _, shifts in phases if shifts != [0])
    return costs.Size(
        C, D, math.prod(geometry.kernel), math.prod(pixels), math.prod(positions), geometry.groups, pairs, sums
    )


@lru_cache(maxsize=4096)
def cheapest(size: costs.Size, geometry: Geometry, limits: costs.Limits) -> tuple[Form, int]:
    """Return the form for a shape, and how many images it takes at a time."""
    possible, estimates = possible_forms(size, geometry, limits), costs.estimates(size, limits.costs)
    form = min(possible, key=lambda form: estimates[form.__name__])
    return form, possible[form]


def possible_forms(size: costs.Size, geometry: Geometry, limits: costs.Limits) -> dict[Form, int]:
    """Return the forms that are right for a shape and worth a try, and how many images each takes at a time."""
    C, D, T = size.C, size.D, size.positions
    has_windows = geometry.is_full() and len(geometry.kernel) == 2 and not geometry.is_pointwise()
    found: dict[Form, int] = {}
    if has_windows:
        found[forms.products] = max(2, limits.chunk // (4 * T * T + C * size.taps * T))
        if limits.unfolds:
            return {forms.unfolded: max(1, limits.chunk // (C * size.taps * (T + D))), **found}
    found[forms.materialised] = max(1, limits.weights // (C * D * size.taps // size.groups))
    # torch takes a kernel of one entry group by group
    if geometry.groups == C > 1 and not geometry.transposed and T > 1:
        found[forms.depthwise] = max(1, limits.chunk // (4 * (C * size.pixels + D * T)))
    if geometry.is_pointwise():
        found[forms.pointwise] = max(2, limits.chunk // (C * D))
    if geometry.is_full():
        found[forms.pixel_products] = max(2, limits.chunk // (6 * max(T * T, size.pixel_pairs)))
    return found


SMALLEST_SHARE = 1e-2  # of ‖a s g‖² that is left; below it the difference has lost too many digits


class StandardisedConvolution(Convolution):
    """y = x ∗ (a·θ̂) + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry, standardised: Standardised) -> None:
        super().__init__(weight, bias, geometry)
        self.standardised, self.rows, self.factor = standardised, standardised.rows, standardised.factor
        self.parameters = (standardised.parameter, self.factor, bias)

    @override
    def output(self, x: Tensor) -> Tensor:
        y = self._convolved(x, self.rows)
        self.plain, self.version = y.detach(), y._version
        if self.factor is not None:
            y = y * _wide(self.factor.detach(), y)
        return y if self.bias is None else y + _wide(self.bias.detach(), y)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        parameter, scale = self.standardised.parameter, self.standardised.inverse
        if accumulator.is_summed(parameter):  # the way back then leads to the factor, too
            return super().backward(x, gradient, needs_input, accumulator)
        gradient = gradient.contiguous()
        plain = self.plain if self.plain._version == self.version else self._convolved(x, self.rows)
        dots = (gradient * plain).flatten(2).sum(2)
        if self.factor is not None:
            scale = scale * self.factor.detach()
            accumulator.record(self.factor, lambda: dots)
        accumulator.record(
            parameter,
            lambda: self._projected(x, gradient * _wide(scale, gradient)),
            lambda: self._projected_norms(x, gradient * _wide(scale, gradient), dots * scale, accumulator),
        )
        accumulator.record(self.bias, lambda: gradient.flatten(2).sum(2))
        return forms.input_gradient(x, gradient, self.weight.detach(), self.geometry) if needs_input else None

    def _projected_norms(self, x: Tensor, b: Tensor, dots: Tensor, accumulator: Accumulator) -> Tensor:
        """Squared norms without the gradients, float64 [N]; `b` and `dots` times a·s."""
        rows, G = self.rows, self.geometry.groups
        ones = self._convolved(x, rows.new_ones(G, *rows.shape[1:]))  # x ∗ 1, [N, G, ...]
        sums = (b.view(len(b), G, -1, *b.shape[2:]) * ones[:, :, None]).flatten(3).sum(3).flatten(1)
        overlap = 2 - rows.flatten(1).square().mean(1)  # ‖θ̂‖² is a little below M, for ε
        whole = self._norms(x, b, accumulator)
        taken = (to_float64(sums).square() + to_float64(overlap) * to_float64(dots).square()).sum(1) / rows[0].numel()
        left: Tensor = whole - taken
        again = (left <= SMALLEST_SHARE * whole).nonzero().flatten()
        if again.numel():
            left[again] = squared_rows(self._projected(x[again], b[again]))
        return left

    def _projected(self, x: Tensor, b: Tensor) -> Tensor:
        """The gradients themselves, [N, *shape]; `b` times a·s."""
        g = forms.weight_gradients(x, b, self.geometry)
        flat, rows = g.flatten(2), self.rows.flatten(1)
        flat = flat - flat.mean(2, keepdim=True) - rows * (flat * rows).mean(2, keepdim=True)
        return flat.view(g.shape)


def _wide(channels: Tensor, like: Tensor) -> Tensor:
    """[D] as [D, 1, ...], to go with [N, D, ...]."""
    return channels.view(-1, *(1,) * (like.ndim - 2))


def _rule(dimensions: int, wider: Callable[..., Tensor] | None = None) -> Rule:
    """A convolution; several rows an image become one more dimension for the `wider` one, where the kernel has size 1."""

    @taking("input", "weight", "bias", stride=1, padding=0, dilation=1, groups=1)
    def rule(call: Call, given: Any) -> Replacement:
        x, weight, bias, padding = given.input, given.weight, given.bias, given.padding
        if not call.has_rows(x) or x.ndim != dimensions + 2 or weight is None or not call.is_constant(weight, bias):
            return None
        kernel, steps = tuple(weight.shape[2:]), _each(given.dilation, dimensions)
        strides = _each(given.stride, dimensions)
        if not call.is_batch(x):
            if isinstance(padding, str) or wider is None:
                return None
            settings = (1, *strides), (0, *_each(padding, dimensions)), (1, *steps), given.groups
            rows = call.accumulator.batch
            return lambda: rows_together(wider(rows_apart(x, rows), weight.unsqueeze(2), bias, *settings))
        if isinstance(padding, str):
            total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(steps, kernel, strict=True)]
            if any(size % 2 for size in total):
                x = F.pad(x, [side for size in reversed(total) for side in (size // 2, size - size // 2)])
                total = [0] * dimensions
            padding = [size // 2 for size in total]
        pads = _each(padding, dimensions)
        geometry = Geometry(kernel, strides, pads, steps, given.groups, False, (0,) * dimensions)
        standardised = call.accumulator.reparametrised.standardised(weight)
        if standardised is None:
            return Convolution(weight, bias, geometry), x
        return StandardisedConvolution(weight, bias, geometry, standardised), x

    return rule


def _transposed(dimensions: int) -> Rule:
    @taking("input", "weight", "bias", stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    def rule(call: Call, given: Any) -> Replacement:
        x, weight = given.input, given.weight
        if not call.is_batch(x) or x.ndim != dimensions + 2 or not call.is_constant(weight, given.bias):
            return None
        settings = (given.stride, given.padding, given.dilation, given.output_padding)
        strides, pads, steps, extra = (_each(value, dimensions) for value in settings)
        geometry = Geometry(tuple(weight.shape[2:]), strides, pads, steps, given.groups, True, extra)
        return Convolution(weight, given.bias, geometry), x

    return rule


def _each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """One number per dimension: torch takes a single one, or a sequence of one, for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


RULES: dict[Callable[..., Any], Rule] = {
    torch.conv1d: _rule(1, torch.conv2d),
    torch.conv2d: _rule(2, torch.conv3d),
    torch.conv3d: _rule(3),
    torch.conv_transpose1d: _transposed(1),
    torch.conv_transpose2d: _transposed(2),
    torch.conv_transpose3d: _transposed(3),
}
