"""Energy of the logits that a linear head gives to penultimate features which are clipped, pruned or scaled.

The papers have features of at least 0, as after a ReLU; those of other networks are treated in the same way. Defaults
are OpenOOD's.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import logsumexp
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Percentile
from lightning_gradood.detectors.detector import Fitted, normal_training_records
from lightning_gradood.detectors.last_layer import LastLayerDetector
from lightning_gradood.probes import PenultimateProbe
from lightning_gradood.records import LinearHead, Records


def number_above(percentile: float | np.ndarray, width: int) -> np.ndarray:
    """How many of `width` features a percentile leaves: width − round(width·percentile/100), but at least one."""
    return np.asarray(np.maximum(width - np.round(width * np.asarray(percentile) / 100), 1))


def largest(features: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """Mark the `number` (one, or [n, 1]) largest of each row of features [n, D], of equals the first, bool [n, D]."""
    order, marked = np.argsort(-features, axis=1, kind="stable"), np.empty(features.shape, dtype=bool)
    np.put_along_axis(marked, order, np.broadcast_to(np.arange(features.shape[1]) < number, features.shape), axis=1)
    return marked


def sharpness(features: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Sum of each row divided by that of what is kept, float64 [n, 1], or 1 where that is 0.

    It is at most D / number kept, which features of at least 0 do not exceed; others would overflow after `exp`.
    """
    every, some = features.sum(axis=1, keepdims=True), (features * kept).sum(axis=1, keepdims=True)
    ratio = np.divide(every, some, out=np.ones_like(every), where=some != 0)
    return np.asarray(np.minimum(ratio, features.shape[1] / kept.sum(axis=1, keepdims=True)))


def energy(head: LinearHead, features: np.ndarray) -> np.ndarray:
    """−logsumexp of the logits that a head gives to features [n, D], float64 [n]."""
    return np.asarray(-logsumexp(head.logits(features), axis=1))


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

    @abstractmethod
    def shaped(self, features: np.ndarray) -> np.ndarray:
        """Features [n, D] as the head is given them, float64 [n, D]."""

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        return FittedActivations(records.head, self)


@dataclass(frozen=True, eq=False)
class FittedActivations(Fitted):
    """A head, and what is done to features before it: `shaping`, or clipping at `ceiling`."""

    head: LinearHead
    shaping: Shaping | None = None
    ceiling: float | None = None

    @override
    def score(self, records: Records) -> np.ndarray:
        features = records.probe(PenultimateProbe.name)
        if self.ceiling is not None:
            features = np.minimum(features, self.ceiling)
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
    def shaped(self, features: np.ndarray) -> np.ndarray:
        kept = largest(features, number_above(self.percentile, features.shape[1]))
        if self.variant == "b":
            return np.asarray(kept * features.sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True))
        return np.asarray(kept * features * (np.exp(sharpness(features, kept)) if self.variant == "s" else 1.0))


@dataclass(frozen=True)
class SCALE(Shaping):
    """Energy after an image's features are multiplied by exp(their sum / sum of those above their `percentile`).

    Reference:
        Xu, Chen, Franchi, Yao 2024 ("Scaling for Training Time and Post-hoc … Enhancement"); OpenOOD's `scale`.
    """

    percentile: Percentile = 85.0
    name: str = "scale"

    @override
    def shaped(self, features: np.ndarray) -> np.ndarray:
        kept = largest(features, number_above(self.percentile, features.shape[1]))
        return np.asarray(features * np.exp(sharpness(features, kept)))
