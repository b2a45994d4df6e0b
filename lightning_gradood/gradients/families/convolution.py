"""Convolutions in 1, 2 and 3 dimensions, transposed ones too: ‖dW‖² by the cheapest of five forms, db = Σ_t b."""

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

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.families import convolution_forms as forms
from lightning_gradood.gradients.families.convolution_forms import Geometry
from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.tally import Tally

Form = Callable[..., Tensor]


class Convolution(Layer):
    """y = x ∗ W + b, or its transpose."""

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        self.weight, self.bias, self.geometry = weight, bias, geometry
        self.parameters = (weight, bias)
        self._products: dict[int, Tensor] = {}  # AᵀA of each chunk, where several label designs share it

    @override
    def output(self, x: Tensor) -> Tensor:
        g = self.geometry
        return torch.convolution(
            x, self.weight, self.bias, g.stride, g.padding, g.dilation, g.transposed, g.output_padding, g.groups
        )

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        gradient, g = gradient.contiguous(), self.geometry
        inputs = forms.input_gradient(x, gradient, self.weight, g) if needs_input else None
        tally.record(
            self.weight, lambda: forms.weight_gradients(x, gradient, g), lambda: self._norms(x, gradient, tally)
        )
        tally.record(self.bias, lambda: gradient.flatten(2).sum(2))
        return inputs

    def _norms(self, a: Tensor, b: Tensor, tally: Tally) -> Tensor:
        """Squared norms of every image's dW, float64 [N], by the cheapest form, in chunks that stay in cache."""
        form, step = cheapest(_size(a, b, self.geometry), self.geometry, costs.limits(a.device))
        if step >= a.shape[0]:
            return self._chunk(form, 0, a, b, tally)
        chunks = zip(torch.split(a, step), torch.split(b, step), strict=True)
        return torch.cat([self._chunk(form, part, x, y, tally) for part, (x, y) in enumerate(chunks)])

    def _chunk(self, form: Form, part: int, a: Tensor, b: Tensor, tally: Tally) -> Tensor:
        if form not in (forms.products, forms.pixel_products):
            return form(a, b, self.geometry)
        products = self._products.get(part)
        if products is None:
            products = form(a, self.geometry)
            if tally.passes > 1:
                self._products[part] = products
        return forms.from_products(products, a, b, self.geometry)


def _size(a: Tensor, b: Tensor, geometry: Geometry) -> costs.Size:
    return size_of(a.shape[1], b.shape[1], tuple(a.shape[2:]), tuple(b.shape[2:]), geometry)


@lru_cache(maxsize=4096)
def size_of(C: int, D: int, pixels: tuple[int, ...], positions: tuple[int, ...], geometry: Geometry) -> costs.Size:
    """Return what the costs depend on, for a convolution from C × `pixels` to D × `positions`."""
    pairs, sums = 0, -1  # the first phase is not added to anything
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
    possible = possible_forms(size, geometry, limits)
    form = min(possible, key=lambda form: forms.COSTS[form](size, costs.CPU))
    return form, possible[form]


def possible_forms(size: costs.Size, geometry: Geometry, limits: costs.Limits) -> dict[Form, int]:
    """Return the forms that are right for a shape, and how many images each takes at a time."""
    C, D, T = size.C, size.D, size.positions
    found: dict[Form, int] = {forms.materialised: max(1, limits.weights // (C * D * size.taps // size.groups))}
    if limits.slides and geometry.is_depthwise(C) and T > 1:  # torch takes a kernel of one entry group by group
        found[forms.depthwise] = max(1, limits.chunk // (4 * (C * size.pixels + D * T)))
    if geometry.is_pointwise():
        found[forms.pointwise] = max(2, limits.chunk // (C * D))
    if geometry.is_full():
        found[forms.pixel_products] = max(2, limits.chunk // (6 * max(T * T, size.pixel_pairs)))
    if geometry.is_full() and len(geometry.kernel) == 2 and not geometry.is_pointwise():
        found[forms.products] = max(2, limits.chunk // (4 * T * T + C * size.taps * T))
    return found


def _match(dimensions: int) -> Match:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

    def match(call: Call) -> tuple[Layer, Tensor] | None:
        bound = call.bind(names, (None, None, None, 1, 0, 1, 1))
        if bound is None:
            return None
        x, weight, bias, stride, padding, dilation, groups = bound
        if not _fits(call, x, weight, bias, dimensions):
            return None
        kernel, steps = tuple(weight.shape[2:]), _each(dilation, dimensions)
        if isinstance(padding, str):
            total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(steps, kernel, strict=True)]
            if any(size % 2 for size in total):
                x = F.pad(x, [side for size in reversed(total) for side in (size // 2, size - size // 2)])
                total = [0] * dimensions
            padding = [size // 2 for size in total]
        pads, strides = _each(padding, dimensions), _each(stride, dimensions)
        return Convolution(weight, bias, Geometry(kernel, strides, pads, steps, groups, False, (0,) * dimensions)), x

    return match


def _match_transposed(dimensions: int) -> Match:
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")

    def match(call: Call) -> tuple[Layer, Tensor] | None:
        bound = call.bind(names, (None, None, None, 1, 0, 0, 1, 1))
        if bound is None:
            return None
        x, weight, bias, stride, padding, output_padding, groups, dilation = bound
        if not _fits(call, x, weight, bias, dimensions):
            return None
        strides, pads, steps, extra = (_each(v, dimensions) for v in (stride, padding, dilation, output_padding))
        geometry = Geometry(tuple(weight.shape[2:]), strides, pads, steps, groups, True, extra)
        return Convolution(weight, bias, geometry), x

    return match


def _fits(call: Call, x: Any, weight: Any, bias: Any, dimensions: int) -> bool:
    return call.is_batch(x) and x.ndim == dimensions + 2 and call.is_constant(weight, bias) and weight is not None


def _each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """One number per dimension: torch takes a single one, or a sequence of one, for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


MATCHES: dict[Callable[..., Any], Match] = {
    torch.conv1d: _match(1),
    torch.conv2d: _match(2),
    torch.conv3d: _match(3),
    torch.conv_transpose1d: _match_transposed(1),
    torch.conv_transpose2d: _match_transposed(2),
    torch.conv_transpose3d: _match_transposed(3),
}
