"""Energy of the logits that a linear head gives to penultimate features which are clipped, pruned or scaled.

The papers have features of at least 0, as after a ReLU; those of other networks are treated in the same way. Defaults
are OpenOOD's.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Percentile
from lightning_gradood.detectors.detector import Fitted, TensorFitted, TensorReadings, normal_training_records
from lightning_gradood.detectors.last_layer import LastLayerDetector, energy
from lightning_gradood.probes import PenultimateProbe
from lightning_gradood.records import LinearHead, Records


def number_above(percentile: Tensor, width: int) -> Tensor:
    """How many of `width` features a percentile leaves: width − round(width·percentile/100), but at least one."""
    return (width - (width * percentile / 100).round()).clamp_min(1)


def largest(features: Tensor, number: Tensor | int) -> Tensor:
    """1 for the `number` (one, or [n, 1]) largest of each row of features [n, D], of equals the first, and 0, [n, D]."""
    first = (torch.arange(features.shape[1]) < number).to(features).expand_as(features)
    return torch.zeros_like(features).scatter(1, features.argsort(dim=1, descending=True, stable=True), first)


def sharpness(features: Tensor, kept: Tensor) -> Tensor:
    """Sum of each row divided by that of what is kept, float64 [n, 1], or 1 where that is 0.

    It is at most D / number kept, which features of at least 0 do not exceed; others would overflow after `exp`.
    """
    every, some = features.sum(dim=1, keepdim=True), (features * kept).sum(dim=1, keepdim=True)
    ratio = torch.where(some == 0, 1.0, every / torch.where(some == 0, 1.0, some))
    return torch.minimum(ratio, features.shape[1] / kept.sum(dim=1, keepdim=True))


@dataclass(frozen=True)
class ReAct(LastLayerDetector):
    """Energy after features are clipped at a percentile of all features of normal images.

    Reference:
        Sun, Guo, Li 2021 ("ReAct: Out-of-distribution Detection With Rectified Activations"); OpenOOD's `react`.
    """

    percentile: Percentile = 90.0
    name: str = "react"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        features = normal_training_records(records).stored(PenultimateProbe.name)
        return FittedActivations(records.head, ceiling=float(np.percentile(features, self.percentile)))


@dataclass(frozen=True)
class DICE(LastLayerDetector):
    """Energy of a head whose weights are set to 0 where they contribute little to the logits of normal images.

    The contribution of a weight is its product with the mean of its feature; it stays if that is above a percentile of all.

    Reference:
        Sun, Li 2022 ("DICE: Leveraging Sparsification for Out-of-Distribution Detection"); OpenOOD's `dice`.
    """

    percentile: Percentile = 90.0
    name: str = "dice"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        features, head = normal_training_records(records).stored(PenultimateProbe.name), records.head
        contributions = features.mean(axis=0, dtype=np.float64) * head.weight
        kept = contributions > np.percentile(contributions, self.percentile)
        return FittedActivations(LinearHead(head.weight * kept, head.bias))


class Shaping(LastLayerDetector):
    """Energy after a change of the features that depends on the image's own features alone."""

    percentile: float

    def above(self, features: Tensor) -> Tensor:
        """1 for features above the image's percentile, 0 for others, float64 [n, D]."""
        return largest(features, number_above(torch.tensor(self.percentile), features.shape[1]))

    @abstractmethod
    def shaped(self, features: Tensor) -> Tensor:
        """Features [n, D] as the head is given them, float64 [n, D]."""

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        return FittedActivations(records.head, self)


@dataclass(frozen=True, eq=False)
class FittedActivations(TensorFitted):
    """A head, and what is done to features before it: `shaping`, or clipping at `ceiling`."""

    head: LinearHead
    shaping: Shaping | None = None
    ceiling: float | None = None

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        features = read.features if self.ceiling is None else read.features.clamp_max(self.ceiling)
        return energy(self.head, features if self.shaping is None else self.shaping.shaped(features))


@dataclass(frozen=True)
class ASH(Shaping):
    """Energy after `percentile` of an image's features, the smallest, are set to 0.

    Of the others variant `s` multiplies each by exp(sum of all / sum of these), `b` replaces each by the sum of all
    divided by their number, `p` leaves them.

    Reference:
        Djurisic, Bozanic, Ashok, Liu 2023 ("Extremely Simple Activation Shaping …"); OpenOOD's `ash`, which is variant `b`.
    """

    percentile: Percentile = 90.0
    variant: Literal["s", "b", "p"] = "b"
    name: str = "ash"

    @override
    def shaped(self, features: Tensor) -> Tensor:
        kept = self.above(features)
        if self.variant == "b":
            return kept * features.sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True)
        return kept * features * (sharpness(features, kept).exp() if self.variant == "s" else 1.0)


@dataclass(frozen=True)
class SCALE(Shaping):
    """Energy after an image's features are multiplied by exp(their sum / sum of those above their `percentile`).

    Reference:
        Xu, Chen, Franchi, Yao 2024 ("Scaling for Training Time and Post-hoc … Enhancement"); OpenOOD's `scale`.
    """

    percentile: Percentile = 85.0
    name: str = "scale"

    @override
    def shaped(self, features: Tensor) -> Tensor:
        return features * sharpness(features, self.above(features)).exp()
