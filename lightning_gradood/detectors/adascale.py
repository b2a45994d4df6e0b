"""AdaSCALE-A: features are scaled by a percentile that depends on how much they move when pixels that hardly matter do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

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
    exact_arithmetic,
    frozen_network,
    input_gradient,
)
from lightning_gradood.detectors.activations import largest, number_above, sharpness
from lightning_gradood.detectors.detector import (
    Detector,
    Fitted,
    TensorFitted,
    TensorReadings,
    normal_training_records,
)
from lightning_gradood.detectors.last_layer import energy
from lightning_gradood.detectors.output_scores import leaf
from lightning_gradood.probes import PENULTIMATE, PenultimateProbe, Probe, feature_layer_outputs
from lightning_gradood.records import LinearHead, Records


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
        with exact_arithmetic(), frozen_network(network):
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
