"""Distances to nearest neighbours: of features, of gradient representations, and the dimensionality they suggest."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import ClosedUnitInterval, Component, PositiveInt, say_once
from lightning_gradood.detectors.detector import Detector, Fitted, drawn, normal_training_records
from lightning_gradood.detectors.gaussians import ClassGaussian, OneClassOfGradients, log_norms
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings, length, product, unit_length
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import FeatureProbe, PenultimateProbe, Probe, columns_by_layer
from lightning_gradood.records import Records

BANK = 400  # megabytes, by default
_MOST_FEATURES, _MOST_GRADIENTS = 50, 10  # the default rank at most: the paper's; chosen on validation data


@dataclass(frozen=True, eq=False)
class Neighbours(Component):
    """Rows that others are compared with, float32 or float64 [m, D], and which of the nearest counts, from 1 to m."""

    rows: np.ndarray
    rank: int

    @classmethod
    def of(cls, rows: np.ndarray, k: int | None, most: int, number: int = 0) -> Neighbours:
        """With k as rank, or the last where there are fewer; by default one in 16 of the rows, and `most` at most.

        Where rows were drawn from a larger `number`, the rank is less in proportion.
        """
        number = number or len(rows)
        if k is not None and 10 * k > number:
            say_once(
                f"k = {k} is more than a tenth of the {number} images among which neighbours are sought: the k-th lies "
                "far from any image. Take a smaller k, or more normal images."
            )
        rank = min(k if k is not None else min(max(number // 16, 1), most), number)
        return cls(rows, max(round(rank * len(rows) / number), 1))

    def distance(self, values: Tensor) -> Tensor:
        """Euclidean distance of each row of values float64 [n, D] to its neighbour of that rank, float64 [n]."""
        rows = torch.from_numpy(self.rows)
        order = torch.from_numpy(self._squares) - 2 * product(values.to(rows), self.rows.T)
        if torch.compiler.is_compiling():  # ONNX has no partition, which takes a fifth of the time
            nearest = order.topk(self.rank, largest=False).indices[:, -1]
        else:
            places = np.argpartition(order.detach().numpy(), self.rank - 1, axis=1)
            nearest = torch.from_numpy(places[:, self.rank - 1])
        return length(values - rows[nearest])[:, 0]  # by differences: products lose the digits of short distances

    @cached_property
    def _squares(self) -> np.ndarray:
        return np.asarray(np.einsum("md,md->m", self.rows, self.rows))


def bank(values: np.ndarray, megabytes: int, seed: int, among: np.ndarray | None = None) -> np.ndarray:
    """Indices of rows, all or those `among` which to choose, that fit into so many megabytes, drawn by the seed."""
    rows = np.arange(len(values)) if among is None else among
    return np.asarray(rows[drawn(len(rows), max(megabytes * 1_000_000 // values[:1].nbytes, 1), seed)])


@dataclass(frozen=True)
class KNN(Detector):
    """Distance of unit-length penultimate features to the k-th nearest normal one (Sun, Ming, Zhu, Li 2022, section 3).

    Args:
        k: which neighbour, at least 1; by default one in 16 of the normal `train` records, and at most the paper's 50.
        megabytes: of normal features that are kept; where there are more, as many as fit are drawn by the seed, and k
            is less in proportion, as in the paper, which keeps 1 % of ImageNet's and divides k by 100.
    """

    k: PositiveInt | None = None
    megabytes: PositiveInt = BANK
    name: str = "knn"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (PenultimateProbe(),)

    @property
    @override
    def fewest(self) -> int:
        return self.k or 2

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        features = normal_training_records(records, self.fewest).stored(PenultimateProbe.name)
        kept = features[bank(features, self.megabytes, seed)]
        rows = unit_length(torch.from_numpy(kept.astype(np.float64))).numpy().astype(np.result_type(kept, np.float32))
        return FittedKNN(Neighbours.of(rows, self.k, _MOST_FEATURES, len(features)))


@dataclass(frozen=True, eq=False)
class FittedKNN(TensorFitted):
    """Directions of normal features."""

    neighbours: Neighbours

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.neighbours.distance(unit_length(read.features))


@dataclass(frozen=True)
class GradientKNN(OneClassOfGradients):
    """Distance to the k-th nearest normal representation, each relative to its predicted class' centre.

    It is `KNN` with gradient norms in place of normalised features.

    Args:
        label_designs: the representation is their norms side by side; by default those of the experiment, or AllOnes.
        k: which neighbour, the last where there are fewer; by default one in 16 of the normal records, and 10 at most.
        whitening: from 0, standardised norms, to 1, fully whitened ones.
        megabytes: of normal representations that are kept, as for `KNN`.
    """

    k: PositiveInt | None = None
    megabytes: PositiveInt = BANK
    whitening: ClosedUnitInterval = 0.5
    name: str = "gradient_knn"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal, columns = normal_training_records(records), [probe.name for probe in self.probes]
        values, predictions = log_norms(TensorReadings.of(normal), columns), normal.column("prediction")
        gaussian = ClassGaussian.of(values.numpy(), predictions, self.whitening)
        kept = bank(values.numpy(), self.megabytes, seed)
        whitened = gaussian.whitened(values[kept], torch.from_numpy(predictions[kept])).numpy()
        return FittedGradientKNN(columns, gaussian, Neighbours.of(whitened, self.k, _MOST_GRADIENTS, len(values)))


@dataclass(frozen=True, eq=False)
class FittedGradientKNN(TensorFitted):
    """Whitened representations of normal images."""

    columns: Sequence[str]
    gaussian: ClassGaussian
    neighbours: Neighbours

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.neighbours.distance(self.gaussian.whitened(log_norms(read, self.columns), read.predictions))


_BATCH = 100  # images, as in the original
_LARGEST = 4  # features that say which images an image outside of the batches is compared with


def local_dimensionality(distances: np.ndarray, neighbours: Sequence[int]) -> np.ndarray:
    """Estimate −k / Σ_{i ≤ k} log(v_i / v_k), v_i the distance to the i-th nearest neighbour, float64 [n, K].

    Takes distances to all m neighbours in any order, float [n, m], and the K values of k, each in 1 … m. Estimates are
    at most 1e6 (equal distances), and 0 where all k distances are 0 (Amsaleg et al. 2015, Eq. 10; Ma et al. 2018, Eq. 4).
    """
    ordered, k = np.sort(distances, axis=1).astype(np.float64), np.asarray(neighbours)
    logs = np.log(np.maximum(ordered, 1e-300))  # a copy of an image is infinitely near: a dimension of nearly 0
    spreads = k * logs[:, k - 1] - np.cumsum(logs, axis=1)[:, k - 1]
    return np.where(ordered[:, k - 1] > 0, k / np.maximum(spreads, 1e-6 * k), 0.0)


@dataclass(frozen=True, eq=False)
class Neighbourhoods(Component):
    """Mini-batches of clean images; each image is compared with all of one batch but one.

    That one is the image itself or its clean version, where a batch has it, else it follows from its largest features:
    so images in and outside the batches have equally many neighbours, and a score does not depend on an image's name.

    Args:
        features: of the clean images, float32 or float64 [batches, size, width].
        ids: their origin ids, batch by batch.
    """

    features: np.ndarray
    ids: Sequence[str]

    @classmethod
    def build(cls, features: np.ndarray, ids: Sequence[str], seed: int, megabytes: int = BANK) -> Neighbourhoods:
        """Shuffle clean images, float [n, width], into batches of 100, or one if fewer, as many as fit into the megabytes."""
        size = min(_BATCH, len(ids))
        count = max(min(len(ids), megabytes * 1_000_000 // features[:1].nbytes) // size, 1)
        rows = np.random.default_rng(seed).permutation(len(ids))[: count * size]
        return cls(features[rows].reshape(count, size, -1), [ids[row] for row in rows])

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Origin id to number among the images in the batches."""
        return {name: number for number, name in enumerate(self.ids)}

    @property
    def neighbours(self) -> int:
        """Number of images that each image is compared with."""
        return int(self.features.shape[1]) - 1

    def dimensionality(
        self, records: Records, values: np.ndarray, layers: Sequence[Sequence[int]], neighbours: Sequence[int]
    ) -> np.ndarray:
        """Dimensionality of records with features `values`, float [n, width], at each layer, float64 [n, K, T].

        `layers` holds the columns of each of the T feature layers, `neighbours` the K values of k.
        """
        numbers = [self._number(*pair) for pair in zip(records.column("origin_id"), values, strict=True)]
        batches, places = np.divmod(np.array(numbers, dtype=np.int64), self.neighbours + 1)
        found = np.empty((len(records), len(neighbours), len(layers)))
        for batch in np.unique(batches):
            rows = np.flatnonzero(batches == batch)
            kept = np.arange(self.neighbours + 1) != places[rows, None]
            for layer, columns in enumerate(layers):
                # of all pairs, by differences: matrix products would lose the digits of short distances
                distances = cdist(values[rows][:, columns], self.features[batch][:, columns])
                found[rows, :, layer] = local_dimensionality(distances[kept].reshape(len(rows), -1), neighbours)
        return found

    def _number(self, origin: str, features: np.ndarray) -> int:
        if origin in self.number_of:
            return self.number_of[origin]
        # rounding rarely changes their order
        largest = np.argsort(features, kind="stable")[-_LARGEST:].astype(np.int32)
        return zlib.crc32(largest.tobytes()) % len(self.ids)


@dataclass(frozen=True)
class LID(Detector):
    """Logistic regression on the local intrinsic dimensionality of every feature layer among clean `train` images.

    Neighbours are sought in mini-batches of 100 clean images, the image's own clean version not counted. Lee et al.
    take the batch that is scored; here it is of normal `train` records, so that a score depends on its own image alone.

    Args:
        neighbours: the grid of k, each at least 2; the one with the highest AUROC on `val` is taken, the first of
            equals. Values that exceed the neighbours there are, 99 or fewer, are left out.
        layers: modules to read, as for `FeatureProbe`.
        megabytes: of clean images' features that are kept, as many mini-batches as fit.

    Reference:
        Ma et al. 2018, algorithm 1; deep_Mahalanobis (Lee et al. 2018), `lib_generation.py`, `get_LID`.
    """

    neighbours: Sequence[PositiveInt] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    layers: list[str] | None = None
    megabytes: PositiveInt = BANK
    name: str = "lid"

    @property
    @override
    def fewest(self) -> int:
        return min(self.neighbours) + 1

    @cached_property
    @override
    def probes(self) -> Sequence[Probe]:
        return [FeatureProbe(self.layers)]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        column = self.probes[0].name
        layers = list(columns_by_layer(records.names(column)).values())
        clean = records.keep(records.column("id") == records.column("origin_id"))
        clean = normal_training_records(clean, self.fewest)
        neighbourhoods = Neighbourhoods.build(clean.stored(column), clean.ids, seed, self.megabytes)
        grid = [k for k in self.neighbours if k <= neighbourhoods.neighbours]
        train, val = (records.where(split=split) for split in ("train", "val"))
        seen, unseen = (neighbourhoods.dimensionality(part, part.stored(column), layers, grid) for part in (train, val))
        regressions = [fit_logistic(seen[:, index], train.anomalous) for index in range(len(grid))]
        scores = (one.score(torch.from_numpy(unseen[:, index])) for index, one in enumerate(regressions))
        areas = [auroc(one.numpy(), val.anomalous) for one in scores]
        best = int(np.argmax(areas))
        return FittedLID(column, layers, grid[best], neighbourhoods, regressions[best])


@dataclass(frozen=True, eq=False)
class FittedLID(Fitted):
    """The regression on dimensions for `k` neighbours; `layers` are the columns of each feature layer."""

    column: str
    layers: Sequence[Sequence[int]]
    k: int
    neighbourhoods: Neighbourhoods
    logistic: Logistic

    @override
    def score(self, records: Records) -> np.ndarray:
        values = records.stored(self.column)
        dimensions = self.neighbourhoods.dimensionality(records, values, self.layers, [self.k])
        return np.asarray(self.logistic.score(torch.from_numpy(dimensions[:, 0])).numpy())
