"""Distances to nearest neighbours: of features, of gradient representations, and the dimensionality they suggest."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.spatial.distance import cdist
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import ClosedUnitInterval, Component, PositiveInt
from lightning_gradood.detectors.detector import Detector, Fitted, normal_training_records
from lightning_gradood.detectors.gaussians import ClassGaussian, OneClassOfGradients, log_norms, unit_length
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import FeatureProbe, PenultimateProbe, Probe, columns_by_layer
from lightning_gradood.records import Records

_MEBIBYTES = 256  # of distances at a time
_MOST_FEATURES, _MOST_GRADIENTS = 50, 10  # the default rank at most: the paper's; chosen on validation data


@dataclass(frozen=True, eq=False)
class Neighbours(Component):
    """Rows that others are compared with, float64 [m, D], and which of the nearest counts, from 1 to m."""

    rows: np.ndarray
    rank: int

    @classmethod
    def of(cls, rows: np.ndarray, k: int | None, most: int) -> Neighbours:
        """With k as rank, or the last where there are fewer; by default one in 16 of the rows, and `most` at most."""
        return cls(rows, min(k if k is not None else min(max(len(rows) // 16, 1), most), len(rows)))

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Euclidean distance of each row of values [n, D] to its neighbour of that rank, float64 [n]."""
        from sklearn import config_context

        with config_context(working_memory=_MEBIBYTES):
            return np.asarray(self._search.kneighbors(values)[0][:, -1], dtype=np.float64)

    @cached_property
    def _search(self) -> Any:
        from sklearn.neighbors import NearestNeighbors  # takes half a second, which most runs do without

        # brute force, in chunks: trees do not help in hundreds of dimensions
        return NearestNeighbors(n_neighbors=self.rank, algorithm="brute").fit(self.rows)


@dataclass(frozen=True)
class KNN(Detector):
    """Distance of unit-length penultimate features to the k-th nearest normal one (Sun, Ming, Zhu, Li 2022, section 3).

    Args:
        k: which neighbour, at least 1; by default one in 16 of the normal `train` records, and at most the paper's 50.
    """

    k: PositiveInt | None = None
    name: str = "knn"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (PenultimateProbe(),)

    @property
    @override
    def fewest(self) -> int:
        return self.k or 2

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        features = normal_training_records(records, self.fewest).probe(PenultimateProbe.name)
        return FittedKNN(Neighbours.of(unit_length(features), self.k, _MOST_FEATURES))


@dataclass(frozen=True, eq=False)
class FittedKNN(Fitted):
    """Directions of normal features."""

    neighbours: Neighbours

    @override
    def score(self, records: Records) -> np.ndarray:
        return self.neighbours.distance(unit_length(records.probe(PenultimateProbe.name)))


@dataclass(frozen=True)
class GradientKNN(OneClassOfGradients):
    """Distance to the k-th nearest normal representation, each relative to its predicted class' centre.

    It is `KNN` with gradient norms in place of normalised features.

    Args:
        label_designs: the representation is their norms side by side; by default those of the experiment, or AllOnes.
        k: which neighbour, the last where there are fewer; by default one in 16 of the normal records, and 10 at most.
        whitening: from 0, standardised norms, to 1, fully whitened ones.
    """

    k: PositiveInt | None = None
    whitening: ClosedUnitInterval = 0.5
    name: str = "gradient_knn"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal, columns = normal_training_records(records), [probe.name for probe in self.probes]
        values, predictions = log_norms(normal, columns), normal.column("prediction")
        gaussian = ClassGaussian.of(values, predictions, self.whitening)
        whitened = gaussian.whitened(values, predictions)
        return FittedGradientKNN(columns, gaussian, Neighbours.of(whitened, self.k, _MOST_GRADIENTS))


@dataclass(frozen=True, eq=False)
class FittedGradientKNN(Fitted):
    """Whitened representations of normal images."""

    columns: Sequence[str]
    gaussian: ClassGaussian
    neighbours: Neighbours

    @override
    def score(self, records: Records) -> np.ndarray:
        values = log_norms(records, self.columns)
        return self.neighbours.distance(self.gaussian.whitened(values, records.column("prediction")))


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
        features: of the clean images, float [batches, size, width].
        ids: their origin ids, batch by batch.
    """

    features: np.ndarray
    ids: Sequence[str]

    @classmethod
    def build(cls, features: np.ndarray, ids: Sequence[str], seed: int) -> Neighbourhoods:
        """Shuffle clean images, float [n, width], into batches of 100, or one if fewer, without the remainder."""
        size = min(_BATCH, len(ids))
        count = len(ids) // size
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

    Reference:
        Ma et al. 2018, algorithm 1; deep_Mahalanobis (Lee et al. 2018), `lib_generation.py`, `get_LID`.
    """

    neighbours: Sequence[PositiveInt] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    layers: list[str] | None = None
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
        clean = Records(records.table.filter(records.column("id") == records.column("origin_id")))
        clean = normal_training_records(clean, self.fewest)
        neighbourhoods = Neighbourhoods.build(clean.probe(column), clean.ids, seed)
        grid = [k for k in self.neighbours if k <= neighbourhoods.neighbours]
        train, val = (records.where(split=split) for split in ("train", "val"))
        seen, unseen = (neighbourhoods.dimensionality(part, part.probe(column), layers, grid) for part in (train, val))
        regressions = [fit_logistic(seen[:, index], train.anomalous) for index in range(len(grid))]
        areas = [auroc(one.score(unseen[:, index]), val.anomalous) for index, one in enumerate(regressions)]
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
        values = records.probe(self.column)
        dimensions = self.neighbourhoods.dimensionality(records, values, self.layers, [self.k])
        return self.logistic.score(dimensions[:, 0])
