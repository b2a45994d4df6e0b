"""The paper's detector as a plain module: a 2-layer MLP on standardised gradient representations, and its settings."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_gradood.core import (
    LOG_FLOOR,
    Component,
    FiniteNonNegative,
    FinitePositive,
    HalfOpenUnitInterval,
    PositiveInt,
    to_float64,
)

_NOTHING = 1e-10  # a share of the largest variance that float32 norms leave by rounding alone
_ROUNDING = 1e-12  # relative error of a float64 mean of thousands of equal numbers, with room to spare


@dataclass
class MLPSettings(Component):
    """Settings of the paper's detector, which the paper leaves open; the defaults were chosen on validation data.

    Args:
        width: hidden units.
        learning_rate: of Adam.
        weight_decay: decoupled, of AdamW.
        max_epochs: passes over the training split at most.
        patience: epochs without a lower validation loss after which training stops.
        batch_size: records per step.
        log_values: feed log(value + 1e-30) rather than the values, which span many decades.
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
    inputs: list[str] = field(default_factory=lambda: ["norms"])


class RepresentationMLP(nn.Module):
    """A 2-layer MLP that gives a gradient representation the logit of being anomalous.

    Inputs are log-transformed, then standardised and whitened with the statistics of the training split, which are
    saved with the weights. Representations and statistics are float64, for which the module's device must have it.

    Args:
        representations: those of the training split, float64 [n, L]; give the statistics and the input width.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    mean: Tensor
    std: Tensor
    directions: Tensor

    def __init__(self, representations: Tensor, settings: MLPSettings) -> None:
        super().__init__()
        self.settings = settings
        values = self._transformed(representations)
        mean, spread = values.mean(dim=0), values.std(dim=0, correction=0)
        varies = spread > _ROUNDING * mean.abs()  # a constant column says nothing, and must not become huge elsewhere
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(varies, spread, 1.0))
        self.register_buffer("directions", _directions((values - mean) / self.std, settings.whitening))
        width, dropout = settings.width, settings.dropout
        self.network = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(values.shape[1], width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, representations: Tensor) -> Tensor:
        """Logits [n] of representations float64 [n, L]; higher = more anomalous."""
        standardised = (self._transformed(representations) - self.mean) / self.std
        logits: Tensor = self.network((standardised @ self.directions).to(next(self.parameters())))
        return logits.squeeze(1)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW on all weights."""
        return torch.optim.AdamW(
            self.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )

    def _transformed(self, representations: Tensor) -> Tensor:
        values = to_float64(representations)
        return torch.log(values + LOG_FLOOR) if self.settings.log_values else values


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
    scaled: Tensor = torch.where(varies, components / (variances.clamp_min(0.0) + whitening).sqrt(), 0.0)
    return scaled.contiguous()  # safetensors insists
