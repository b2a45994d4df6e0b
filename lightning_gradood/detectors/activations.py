"""Energy of the logits that a linear head gives to penultimate features which are clipped, pruned or scaled.

The papers have features of at least 0, as after a ReLU; those of other networks are treated in the same way. Defaults
are OpenOOD's.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    FiniteNonNegative,
    FinitePositive,
    OpenUnitInterval,
    Percentile,
    frozen_network,
    input_gradient,
)
from lightning_gradood.detectors.detector import Detector, Fitted, normal_training_records
from lightning_gradood.detectors.last_layer import LastLayerDetector, energy
from lightning_gradood.detectors.output_scores import leaf
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.probes import PENULTIMATE, PenultimateProbe, Probe, feature_layer_outputs
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


@dataclass(frozen=True)
class PerturbedFeaturesProbe(Probe):
    """Penultimate features of x + step·sign(∇ₓ z_ŷ) in the `share` of values x whose gradient is smallest, [N, D].

    ŷ is the predicted class; a gradient of 0 moves nothing. An image costs two forward passes and a backward pass.

    Args:
        share: of the C·H·W values of an image, the smallest gradients first.
        step: in units of pixels in [0, 1]; nothing is clipped.

    Reference:
        Regmi 2025 ("AdaSCALE"); OpenOOD's `AdaScalePostprocessor.perturb`, which moves normalised images by .5.
    """

    share: OpenUnitInterval = 0.05
    step: FinitePositive = 0.125
    name: ClassVar[str] = f"features/{PENULTIMATE}/perturbed"

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        with frozen_network(network):
            images = leaf(images)
            logits = network(images)
            chosen = F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)
            gradient = input_gradient(logits, images, chosen).flatten(1)
            with torch.no_grad():
                places = gradient.abs().topk(int(gradient.shape[1] * self.share), largest=False).indices
                steps = torch.zeros_like(gradient).scatter(1, places, self.step) * gradient.sign()
                return feature_layer_outputs(network, images + steps.view_as(images), [PENULTIMATE])[1][0]


@dataclass(frozen=True)
class AdaSCALE(Detector):
    """Energy after features f are multiplied by exp(sum of f⁺ / sum of its largest), with a percentile for each image.

    With g the features of `PerturbedFeaturesProbe`, Q = Σ g⁺ over the `k1` % largest features + `weight`·Σ |f − g| over
    the `k2` % largest. An image with Q above all normal ones has the lower of `percentiles`, one below all the higher;
    between them the share of normal `train` images with a larger Q decides.

    Args:
        percentiles: the lower and the higher, see `SCALE`.
        k1, k2: percent of the features, at least one feature.
        weight: λ.
        share, step: as for `PerturbedFeaturesProbe`.

    Reference:
        Regmi 2025 ("AdaSCALE"), variant A; OpenOOD's `adascale_a` and its defaults, but for the step: .5 of normalised
        images is .125 of a pixel where their standard deviation is .25. They are for some 500 features or more: of 64,
        1 % are no feature at all in OpenOOD.
    """

    percentiles: tuple[Percentile, Percentile] = (75.0, 85.0)
    k1: Percentile = 5.0
    k2: Percentile = 1.0
    weight: FiniteNonNegative = 10.0
    share: OpenUnitInterval = 0.05
    step: FinitePositive = 0.125
    name: str = "adascale"
    needs_anomalies: ClassVar[bool] = False
    needs_head: ClassVar[bool] = True

    @cached_property
    @override
    def probes(self) -> Sequence[Probe]:
        return [PenultimateProbe(), PerturbedFeaturesProbe(self.share, self.step)]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        table = normal_training_records(records).table
        parts = (Records(table.slice(start, 4096)) for start in range(0, len(table), 4096))  # float64 copies of few
        moves = torch.cat([self.moves(TensorReadings.of(part)) for part in parts])
        return FittedAdaSCALE(self, records.head, np.sort(moves.numpy()))

    def moves(self, read: TensorReadings) -> Tensor:
        """Q, float64 [n]."""
        features, perturbed = read.features, read.probe(PerturbedFeaturesProbe.name)
        numbers = (max(int(features.shape[1] * percent / 100), 1) for percent in (self.k1, self.k2))
        first, second = (largest(features, number) for number in numbers)
        shift = (features - perturbed).abs()
        return (perturbed.clamp_min(0) * first).sum(dim=1) + self.weight * (shift * second).sum(dim=1)


@dataclass(frozen=True, eq=False)
class FittedAdaSCALE(TensorFitted):
    """The head, and Q of normal images in ascending order."""

    settings: AdaSCALE
    head: LinearHead
    moves: np.ndarray

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        low, high = self.settings.percentiles
        smaller = torch.searchsorted(torch.from_numpy(self.moves), self.settings.moves(read), right=True)
        above, positive = 1 - smaller / len(self.moves), read.features.clamp_min(0)
        kept = largest(positive, number_above((low + above * (high - low))[:, None], positive.shape[1]))
        return energy(self.head, read.features * sharpness(positive, kept).exp())
