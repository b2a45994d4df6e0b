"""The paper's detector without its training: a 2-layer MLP on standardised gradient representations, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gradood.core import (
    Component,
    FiniteNonNegative,
    FinitePositive,
    HalfOpenUnitInterval,
    PositiveInt,
    to_float64,
)

_NOTHING = 1e-10  # a share of the largest variance that float32 norms leave by rounding alone
_ROUNDING = 1e-12  # relative error of a float64 mean of thousands of equal numbers, with room to spare


@Component.register  # the parser would want a class path for a subclass
@dataclass(frozen=True)
class MLPSettings:
    """Settings of the paper's detector, which the paper leaves open; the defaults were chosen on validation data.

    Args:
        width: hidden units.
        learning_rate: of Adam.
        weight_decay: decoupled, of AdamW.
        max_epochs: passes over the training split at most.
        patience: epochs without a lower validation loss after which training stops.
        batch_size: records per step.
        log_values: read log(norm + 1e-30) rather than norms, which span many decades.
        whitening: standardised values are turned to their principal components, as norms of neighbouring layers are
            correlated, and each is divided by √(its variance + this number); a large number leaves their proportions,
            null leaves the values as they are.
        dropout: share of inputs and of hidden units that a training step leaves out.
        inputs: what is read of an image: `norms`, gradient norms, as in the paper; with `features`, `confidence` or
            `views` besides a second MLP is fitted beside the paper's.
    """

    width: PositiveInt = 128
    learning_rate: FinitePositive = 2e-3
    weight_decay: FiniteNonNegative = 1e-4
    max_epochs: PositiveInt = 100
    patience: PositiveInt = 10
    batch_size: PositiveInt = 128
    log_values: bool = True
    whitening: FinitePositive | None = 1.0
    dropout: HalfOpenUnitInterval = 0.2
    inputs: list[Literal["norms", "features", "confidence", "views"]] = field(default_factory=lambda: ["norms"])


@dataclass(frozen=True, eq=False)
class Standardisation(Component):
    """Representations, of norms their logarithms, standardised and whitened with the statistics of the training split.

    Args:
        mean, std: of each value, float64 [L]; the std of a constant one is 1.
        directions: principal components as columns, divided by √(variance + whitening), float64 [L, L].
    """

    mean: Tensor
    std: Tensor
    directions: Tensor

    @classmethod
    def of(cls, representations: Tensor, settings: MLPSettings) -> Standardisation:
        """Take the statistics of representations float64 [n, L]."""
        values = to_float64(representations)
        mean, spread = values.mean(dim=0), values.std(dim=0, correction=0)
        varies = spread > _ROUNDING * mean.abs()  # a constant column says nothing, and must not become huge elsewhere
        std = torch.where(varies, spread, 1.0)
        return cls(mean, std, _directions((values - mean) / std, settings.whitening))

    def __call__(self, representations: Tensor) -> Tensor:
        """Inputs of an MLP of representations, both float64 [n, L]."""
        return ((to_float64(representations) - self.mean) / self.std) @ self.directions


@dataclass(frozen=True, eq=False)
class RepresentationMLP(Component):
    """A 2-layer MLP that gives a gradient representation the logit of being anomalous.

    Args:
        standardisation: makes its inputs of representations.
        hidden_weight, hidden_bias: float32 [width, L] and [width], before a ReLU.
        output_weight, output_bias: float32 [1, width] and [1].

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    standardisation: Standardisation
    hidden_weight: Tensor
    hidden_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def __call__(self, representations: Tensor) -> Tensor:
        """Logits [n] of representations float64 [n, L], in the dtype of the weights; higher = more anomalous."""
        inputs = self.standardisation(representations).to(self.hidden_weight)
        hidden = F.linear(inputs, self.hidden_weight, self.hidden_bias).relu()
        return F.linear(hidden, self.output_weight, self.output_bias).squeeze(1)


def _directions(standardised: Tensor, whitening: float | None) -> Tensor:
    """Principal components of float64 [n, L] as columns, divided by √(variance + whitening); the identity for None.

    Columns are zero for directions in which nothing varies, which rounding would choose.
    """
    if whitening is None:
        return torch.eye(standardised.shape[1], dtype=standardised.dtype)
    variances, components = torch.linalg.eigh(standardised.T @ standardised / len(standardised))
    # a component's sign is free; weights that are all different decide it where its largest entries are a tie
    places = torch.arange(1, len(components) + 1, dtype=components.dtype)
    components = components * torch.where(places @ components < 0, -1.0, 1.0)
    varies = variances > _NOTHING * variances.amax()
    return torch.where(varies, components / (variances.clamp_min(0.0) + whitening).sqrt(), 0.0)
