"""PReLU: y = x where x > 0, else θ x, with one slope or one per channel; dθ = Σ b·min(x, 0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.families.broadcast import per_sample
from lightning_gradood.gradients.layer import Call, Layer, Match
from lightning_gradood.gradients.tally import Tally


class PReLU(Layer):
    """y = max(x, 0) + θ min(x, 0)."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope
        self.parameters = (slope,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return torch.prelu(x, self.slope)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        spatial = (1,) * (x.ndim - 2)
        tally.record(
            self.slope,
            lambda: per_sample(gradient * x.clamp(max=0), tally.batch, (*self.slope.shape, *spatial)).flatten(1),
        )
        return torch.where(x > 0, gradient, gradient * self.slope.view(-1, *spatial)) if needs_input else None


def _match(call: Call) -> tuple[Layer, Tensor] | None:
    bound = call.bind(("input", "weight"), (None, None))
    if bound is None or not call.has_rows(bound[0]) or not call.tally.knows(bound[1]) or bound[1].ndim != 1:
        return None
    return PReLU(bound[1]), bound[0]


MATCHES: dict[Callable[..., Any], Match] = {F.prelu: _match, torch.prelu: _match, Tensor.prelu: _match}
