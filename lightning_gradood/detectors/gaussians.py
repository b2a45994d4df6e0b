"""A Gaussian for each class with one covariance for all, and the detectors that measure distances in its metric.

Gradient norms vary with the predicted class, so that logarithms of norms are centred on it and whitened in part. Full
whitening would let the many directions in which normal images hardly differ hide the few in which anomalous ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import LOG_FLOOR, ClosedUnitInterval, Component, say_once, to_float64
from lightning_gradood.detectors.detector import Detector, Fitted, float64_blocks, normal_training_records
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings, of_class, product, unit_length
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.probes import GradientProbe, PenultimateProbe, Probe
from lightning_gradood.records import Records

_FEWEST = 5  # images of a class on average, below which class means are not used
_SMALLEST = 1e-12  # of standard deviations, eigenvalues, lengths and squared distances


@dataclass(frozen=True, eq=False)
class ClassGaussian(Component):
    """How values of normal images vary about the mean of their class: N(μ_c, Σ) (Lee et al. 2018, Eq. 1 and 2).

    Args:
        mean, scale: subtracted from values, and what they are divided by then, float64 [D].
        classes: those that occur, int64 [C].
        centres: their means after that, float64 [C, D].
        directions: W with W·Wᵀ = Σ⁺, or a power of it; whitens a centred row that is multiplied by it, float64 [D, R].
    """

    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray
    centres: np.ndarray
    directions: np.ndarray
    _tensors: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        predictions: np.ndarray,
        whitening: float = 1.0,
        each: Callable[[Tensor], Tensor] = torch.detach,
    ) -> ClassGaussian:
        """Learn from values of normal images, float [n, D], n ≥ 2, and their predicted classes, int [n].

        Values are standardised and the mean of the predicted class is subtracted. Directions of the covariance of what
        is left, shrunk as Ledoit and Wolf (2004) do, are scaled by their eigenvalue to the power −whitening/2: 0 leaves each
        value at unit variance, 1 gives every direction the same weight, so that squares sum to the squared Mahalanobis
        distance. With fewer than five images a class on average, class means would be the images themselves: the mean of
        all stands in their place, and a line says so. `each` changes rows before all this, in float64. Values are gone
        through twice, some rows at a time.
        """
        classes, numbers = np.unique(predictions, return_inverse=True)
        count, width = values.shape

        def blocks() -> Iterator[tuple[slice, np.ndarray]]:
            return ((rows, each(torch.from_numpy(block)).numpy()) for rows, block in float64_blocks(values))

        origin = next(blocks())[1].mean(axis=0)  # moments about a point nearby lose no digits
        sums, squares = np.zeros((len(classes), width)), np.zeros(width)
        for rows, block in blocks():
            relative = block - origin
            np.add.at(sums, numbers[rows], relative)
            squares += np.square(relative).sum(axis=0)
        average = sums.sum(axis=0) / count
        deviation = np.sqrt(np.maximum(squares / count - np.square(average), 0.0))
        mean, scale = origin + average, np.where(deviation > _SMALLEST, deviation, 1.0)
        centres = (sums / np.bincount(numbers)[:, None] - average) / scale
        if count < _FEWEST * len(classes):
            say_once(
                f"Fewer than {_FEWEST} normal images for each predicted class: values are compared with the mean of all "
                "normal images rather than with that of the class."
            )
            centres = np.zeros_like(centres)
        scatter, fourth, kept = np.zeros((width, width) if count >= width else 0), 0.0, list[np.ndarray]()
        for rows, block in blocks():
            left = (block - mean) / scale - centres[numbers[rows]]
            if count < width:  # whose scatter has few directions
                kept.append(left)
            else:
                scatter += left.T @ left
            fourth += float(np.square(np.square(left).sum(axis=1)).sum())
        if kept:
            _, lengths, vectors = np.linalg.svd(np.concatenate(kept), full_matrices=False)
            eigenvalues, vectors = np.square(lengths) / count, vectors.T
        else:
            eigenvalues, vectors = np.linalg.eigh(scatter / count)
        eigenvalues, level = _shrunk(eigenvalues, width, fourth / count, count)
        powers, rest = (np.maximum(one, _SMALLEST) ** (-whitening / 2) for one in (eigenvalues, level))
        return cls(mean, scale, classes, centres, (vectors * (powers - rest)) @ vectors.T + rest * np.eye(width))

    def whitened(self, values: Tensor, predictions: Tensor) -> Tensor:
        """Values [n, D] relative to the mean of the predicted class, or of all if it is unknown, float64 [n, R]."""
        standardised = (values - torch.from_numpy(self.mean)) / torch.from_numpy(self.scale)
        return product(standardised - of_class(predictions, self.classes, self.centres), self.directions)

    def squared_distance(self, values: Tensor, predictions: Tensor) -> Tensor:
        """Squared length of the whitened values, float64 [n]; arguments as for `whitened`."""
        return self.whitened(values, predictions).square().sum(dim=1)

    def log_distance(self, values: Tensor, predictions: Tensor) -> Tensor:
        """Logarithm of `squared_distance`."""
        return (self.squared_distance(values, predictions) + _SMALLEST).log()

    def confidence(self, features: Tensor) -> Tensor:
        """−½·d² to the closest mean, float64 [N], for features [N, D]; gradients flow to the features.

        Lee et al. 2018, Eq. 2, with the factor ½ of their code.
        """
        features = to_float64(features)
        mean, scale, directions, centres = self._on(features.device)
        white = (features - mean) / scale @ directions
        with torch.no_grad():
            order = centres.square().sum(dim=1) - 2 * white @ centres.T  # as squared distances, which lose digits so
            closest = centres[order.argmin(dim=1)]
        return -0.5 * (white - closest).square().sum(dim=1)

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Mean, scale, directions, and the centres whitened, on a device."""
        if device not in self._tensors:
            with torch.inference_mode(False):  # tensors of inference mode cannot take part in a backward pass
                arrays = (self.mean, self.scale, self.directions, self.centres)
                mean, scale, directions, centres = (torch.from_numpy(one).to(device) for one in arrays)
                self._tensors[device] = mean, scale, directions, centres @ directions
        return self._tensors[device]


def _shrunk(eigenvalues: np.ndarray, width: int, fourth: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shrink eigenvalues of an empirical covariance as Ledoit and Wolf 2004, with the mean fourth power of its rows' length.

    The second is that of all directions that are not given, in which nothing varies.
    """
    level, square = eigenvalues.sum() / width, np.square(eigenvalues).sum()
    spread = square - width * level**2  # of eigenvalues about their mean
    share = min((fourth - square) / count, spread) / spread if spread > 0 else 0.0
    return (1 - share) * eigenvalues + share * level, np.asarray(share * level)


def log_norms(read: TensorReadings, columns: Sequence[str]) -> Tensor:
    """Logarithms of the squared norms in these columns side by side, float64 [n, columns · L]."""
    return torch.cat([read.probe(column) for column in columns], dim=1).add(LOG_FLOOR).log()


@dataclass(frozen=True)
class OneClassOfGradients(Detector):
    """Base of detectors fitted on the gradient representations of normal `train` records alone."""

    label_designs: list[LabelDesign] | None = None
    needs_anomalies: ClassVar[bool] = False

    @cached_property
    @override
    def probes(self) -> Sequence[Probe]:
        return [GradientProbe(design) for design in self.label_designs or [AllOnes()]]


@dataclass(frozen=True)
class GradientGaussian(OneClassOfGradients):
    """Squared distance from the predicted class' centre, in a metric between Euclid's and Mahalanobis'.

    Args:
        label_designs: the representation is their norms side by side; by default those of the experiment, or AllOnes.
        whitening: 1 gives the Mahalanobis distance with a shrunk tied covariance (Lee et al. 2018, Eq. 1, on gradient
            norms rather than features), 0 the standardised Euclidean one.
    """

    whitening: ClosedUnitInterval = 0.5
    name: str = "gradient_gaussian"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal, columns = normal_training_records(records), [probe.name for probe in self.probes]
        values = log_norms(TensorReadings.of(normal), columns).numpy()
        return FittedGradientGaussian(columns, ClassGaussian.of(values, normal.column("prediction"), self.whitening))


@dataclass(frozen=True, eq=False)
class FittedGradientGaussian(TensorFitted):
    """Log norms of normal images."""

    columns: Sequence[str]
    gaussian: ClassGaussian

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.gaussian.squared_distance(log_norms(read, self.columns), read.predictions)


@dataclass(frozen=True)
class MahalanobisPP(Detector):
    """Log squared Mahalanobis distance of penultimate features of unit length to the mean of the predicted class.

    It needs no anomalies: means and covariance are of normal `train` records, not of the classifier's training images.

    Reference:
        Müller and Hein 2025, "Mahalanobis++", which takes the closest class rather than the predicted one.
    """

    name: str = "mahalanobis_pp"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (PenultimateProbe(),)

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal = normal_training_records(records)
        features = normal.stored(PenultimateProbe.name)
        return FittedMahalanobisPP(ClassGaussian.of(features, normal.column("prediction"), each=unit_length))


@dataclass(frozen=True, eq=False)
class FittedMahalanobisPP(TensorFitted):
    """Directions of normal images' features."""

    gaussian: ClassGaussian

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.gaussian.log_distance(unit_length(read.features), read.predictions)
