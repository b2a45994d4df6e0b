"""A classifier of normal images against synthetic outliers made from them, which needs no known anomaly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, PositiveFloat
from lightning_gradood.detectors.detector import Fitted, normal_training_records, outlier_training_records
from lightning_gradood.detectors.logistic import Logistic, fit_balanced_logistic
from lightning_gradood.detectors.mlp import Input, Inputs, TrainedDetector, UntrainedMLP
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings, of_class
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.networks import MLPSettings
from lightning_gradood.perturbations import SyntheticOutlier, default_outliers
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records

_HELD_OUT = 5  # every so many-th image, with its outliers, stops the MLP's training
_FARTHEST = 4.0  # standard deviations from the class' centre; what is farther counts as that
_PRIOR = 5  # images at the mean of all by which a class' mean is shrunk
_COLUMNS = 256  # that are standardised together
_LARGEST = 6000  # records of either kind that a linear model is fitted on; more change nothing and take longer


@dataclass(frozen=True)
class SyntheticOutliers(TrainedDetector):
    """Logit by which a model takes an image for a synthetic outlier rather than a normal image.

    The outliers are made from normal images and read in the same pass; only those of `train` are fitted on. Scoring an
    image makes none. With `inputs = [norms]` and `model = mlp` it is the paper's detector without known anomalies.

    Args:
        inputs: what the model reads of an image, see `Inputs`.
        model: `linear`, a logistic regression; `deviations`, one on `Deviations`; `mlp`, the paper's two-layer MLP.
        label_designs: whose norms are read, where `inputs` has `norms`; by default those of the experiment.
        outliers: kinds of synthetic outliers, with different names; by default one of every kind.
        strength: C of the logistic regression, above 0; smaller ones shrink weights more.
        settings: of the MLP.

    Reference:
        Hendrycks, Mazeika and Dietterich 2019, "Outlier Exposure", which trains the classifier itself on outliers; here
        a small model is trained on what the classifier shows.
    """

    inputs: Sequence[Input] = ("features", "confidence", "views")
    model: Literal["linear", "deviations", "mlp"] = "linear"
    label_designs: list[LabelDesign] | None = None
    outliers: list[SyntheticOutlier] | None = None
    strength: PositiveFloat = 0.1
    settings: MLPSettings | None = None
    name: str = "synthetic_outliers"
    needs_anomalies: ClassVar[bool] = False

    @cached_property
    def read(self) -> Inputs:
        """What the model reads."""
        return Inputs(self.inputs, self.label_designs or [AllOnes()])

    @property
    @override
    def needed_outliers(self) -> Sequence[SyntheticOutlier]:
        return default_outliers() if self.outliers is None else self.outliers

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return self.read.probes

    @override
    def begin(self, records: Records, seed: int) -> Fitted | UntrainedMLP:
        if self.model != "mlp":
            return next(self.fit_each(records, [np.ones(len(records), dtype=bool)], seed))
        normal, outliers = normal_training_records(records), outlier_training_records(records, self)
        values = torch.cat([self.read.values(TensorReadings.of(part)) for part in (normal, outliers)])
        labels = np.repeat([0, 1], [len(normal), len(outliers)])
        held = _held_out([*normal.column("origin_id"), *outliers.column("origin_id")], seed)
        train, stop = ((values[rows], torch.from_numpy(labels[rows])) for rows in (~held, held))
        return UntrainedMLP.of(self.read, self.settings or MLPSettings(), train, stop, seed)

    @override
    def fit_each(self, records: Records, several: Iterable[np.ndarray], seed: int) -> Iterator[Fitted]:
        if self.model == "mlp":
            yield from super().fit_each(records, several, seed)
            return
        read, plain, random = TensorReadings.of(records), records.only([]), np.random.default_rng
        values, row_of = self.read.values(read).float(), dict(zip(records.ids, range(len(records)), strict=True))
        predictions = read.predictions
        del read  # which holds all in float64
        for chosen in several:
            known, draws = plain.keep(chosen), random(seed)
            sides = normal_training_records(known), outlier_training_records(known, self)
            if self.model == "linear":
                sides = _some(sides[0], draws), _some(sides[1], draws)
            normal, outliers = ([row_of[one] for one in side.ids] for side in sides)
            rows, labels, deviations = [*normal, *outliers], np.repeat([0, 1], [len(normal), len(outliers)]), None
            width, firsts = values.shape[1], range(0, values.shape[1], _COLUMNS)
            blocks: Iterator[tuple[int, Tensor]] = ((one, values[rows, one : one + _COLUMNS]) for one in firsts)
            if self.model == "deviations":
                deviations = Deviations.of(values[normal].double().numpy(), predictions[normal].numpy())
                blocks, width = deviations.columns(values, predictions, rows), 2 * width
            columns = ((first, one.numpy()) for first, one in blocks)
            logistic = fit_balanced_logistic(columns, width, labels, self.strength)
            yield FittedSyntheticOutliers(self.read, logistic, deviations)


@dataclass(frozen=True, eq=False)
class Deviations(Component):
    """Deviations of values from what is usual for the predicted class, and their sizes: unusual is either side of it.

    Args:
        mean, scale: of normal images, float64 [D]; the scale is the standard deviation, 1 where that is 0.
        classes: predicted ones that occur among them, int64 [C].
        centres: means of their standardised values, of few images near 0, float64 [C, D].
    """

    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray
    centres: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, predictions: np.ndarray) -> Deviations:
        """Learn from values float64 [n, D] of normal images and their predicted classes, int [n]."""
        mean, spread = values.mean(axis=0), values.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        classes, numbers = np.unique(predictions, return_inverse=True)
        sums = np.zeros((len(classes), values.shape[1]))
        np.add.at(sums, numbers, (values - mean) / scale)
        return cls(mean, scale, classes, sums / (np.bincount(numbers) + _PRIOR)[:, None])

    def of_values(self, values: Tensor, predictions: Tensor) -> Tensor:
        """Standard deviations from the centre of the predicted class, at most 4 either way, and without sign, [n, 2D]."""
        found = self._signed(values, predictions, slice(None))
        return torch.cat([found, found.abs()], dim=1)

    def columns(self, values: Tensor, predictions: Tensor, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """The same of some rows, some columns at a time, so that they stay near the processor, and where they begin."""
        for first in range(0, values.shape[1], _COLUMNS):
            block = slice(first, first + _COLUMNS)
            signed = self._signed(values[rows, block], predictions[rows], block)
            yield first, signed
            yield values.shape[1] + first, signed.abs()

    def _signed(self, values: Tensor, predictions: Tensor, block: slice) -> Tensor:
        mean, scale = (torch.from_numpy(one[block]).to(values) for one in (self.mean, self.scale))
        usual = of_class(predictions, self.classes, self.centres[:, block]).to(values)
        return ((values - mean) / scale - usual).clamp(-_FARTHEST, _FARTHEST)


@dataclass(frozen=True, eq=False)
class FittedSyntheticOutliers(TensorFitted):
    """The linear model, of the values themselves or of their deviations."""

    inputs: Inputs
    logistic: Logistic
    deviations: Deviations | None = None

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        values = self.inputs.values(read)
        if self.deviations is not None:
            values = self.deviations.of_values(values, read.predictions)
        return self.logistic.score(values)


def _some(records: Records, random: np.random.Generator) -> Records:
    if len(records) <= _LARGEST:
        return records
    return Records(records.table.take(np.sort(random.permutation(len(records))[:_LARGEST])))


def _held_out(origins: Sequence[str], seed: int) -> np.ndarray:
    """Which rows stop the training, bool [n]; an image and its outliers together."""
    names = np.unique(np.array(origins, dtype=str))
    held = np.random.default_rng(seed).permutation(names)[::_HELD_OUT]
    return np.isin(origins, held)
