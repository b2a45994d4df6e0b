"""Convolutions with a standardised weight (BiT, NFNet).

Each output channel's θ_d has its mean removed and is divided by its standard deviation.
With g = dW, θ̂ the standardised weight, M its entries for each output channel, s = 1/√(variance + ε) and a factor a,

    dθ_d = a_d s_d (g_d − mean(g_d) − θ̂_d · mean(g_d θ̂_d)),    da_d = Σ g_d θ̂_d.

Only ‖a s g‖² needs a convolution's closed form, that of an output gradient times a s. With b the output gradient, Σ g_d is
Σ_t b · (x ∗ 1), and Σ g_d θ̂_d is Σ_t b · (x ∗ θ̂), which the forward pass has computed.

Reference: Qiao et al. 2019, "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.derived import Standardised
from lightning_gradood.gradients.families import convolution
from lightning_gradood.gradients.families import convolution_forms as forms
from lightning_gradood.gradients.families.convolution import Convolution
from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.precision import exact
from lightning_gradood.gradients.tally import Tally, squared_rows

SMALLEST_SHARE = 1e-2  # of ‖a s g‖² that is left: below it the difference has lost too many digits


class StandardisedConvolution(Convolution):
    """y = x ∗ (a·θ̂) + b."""

    def __init__(self, plain: Convolution, standardised: Standardised) -> None:
        super().__init__(plain.weight, plain.bias, plain.geometry)
        self.standardised = standardised
        self.parameters = (standardised.parameter, standardised.factor, plain.bias)

    @override
    def output(self, x: Tensor) -> Tensor:
        y = self._convolved(x, self.standardised.rows)
        self.plain, self.version = y.detach(), y._version
        factor, wide = self.standardised.factor, (-1, *(1,) * (y.ndim - 2))
        if factor is not None:
            y = y * factor.detach().view(wide)
        return y if self.bias is None else y + self.bias.detach().view(wide)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        if tally.is_summed(self.standardised.parameter):  # then its way back leads to the factor, too
            return super().backward(x, gradient, needs_input, tally)
        gradient, wide = gradient.contiguous(), (-1, *(1,) * (gradient.ndim - 2))
        plain = self.plain if self.plain._version == self.version else self._convolved(x, self.standardised.rows)
        dots = (gradient * plain).flatten(2).sum(2)
        scale, factor = self.standardised.inverse, self.standardised.factor
        if factor is not None:
            scale = scale * factor.detach()
            tally.record(factor, lambda: dots)
        tally.record(
            self.standardised.parameter,
            lambda: self._projected(x, gradient * scale.view(wide)),
            lambda: self._projected_norms(x, gradient * scale.view(wide), dots * scale, tally),
        )
        tally.record(self.bias, lambda: gradient.flatten(2).sum(2))
        return forms.input_gradient(x, gradient, self.weight.detach(), self.geometry) if needs_input else None

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        g = self.geometry
        return torch.convolution(x, weight, None, g.stride, g.padding, g.dilation, False, g.output_padding, g.groups)

    def _projected_norms(self, x: Tensor, b: Tensor, dots: Tensor, tally: Tally) -> Tensor:
        """Squared norms without the gradients, float64 [N]; `b` and `dots` times a·s."""
        rows, G = self.standardised.rows, self.geometry.groups
        entries = rows[0].numel()
        ones = self._convolved(x, rows.new_ones(G, *rows.shape[1:]))  # x ∗ 1, [N, G, ...]
        sums = (b.view(len(b), G, -1, *b.shape[2:]) * ones[:, :, None]).flatten(3).sum(3).flatten(1)
        overlap = 2 - rows.flatten(1).square().mean(1)  # ‖θ̂‖² is a little below M, for ε
        whole = self._norms(x, b, tally)
        taken = (exact(sums).square() + exact(overlap) * exact(dots).square()).sum(1) / entries
        left: Tensor = whole - taken
        again = (left <= SMALLEST_SHARE * whole).nonzero().flatten()
        if again.numel():
            left[again] = squared_rows(self._projected(x[again], b[again]))
        return left

    def _projected(self, x: Tensor, b: Tensor) -> Tensor:
        """The gradients themselves, [N, *shape]; `b` times a·s."""
        g = forms.weight_gradients(x, b, self.geometry)
        flat, rows = g.flatten(2), self.standardised.rows.flatten(1)
        flat = flat - flat.mean(2, keepdim=True) - rows * (flat * rows).mean(2, keepdim=True)
        return flat.view(g.shape)


def _match(plain: Match) -> Match:
    def match(call: Call) -> tuple[Layer, Tensor] | None:
        weight = call.args[1] if len(call.args) > 1 else call.kwargs.get("weight")
        standardised = call.tally.derived.standardised(weight)
        found = None if standardised is None else plain(call)
        if standardised is None or found is None or not isinstance(found[0], Convolution):
            return None
        return StandardisedConvolution(found[0], standardised), found[1]

    return match


MATCHES: dict[Callable[..., Any], Match] = {
    function: _match(convolution.MATCHES[function]) for function in (torch.conv1d, torch.conv2d, torch.conv3d)
}
