"""LID: a regression on the local intrinsic dimensionality of features among mini-batches of clean images."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, parse_json
from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import FeatureProbe, Probe, columns_by_layer
from lightning_gradood.records import Records

_BATCH = 100  # images, as in the original
_LARGEST = 4  # features that say which images an image outside of the batches is compared with


def local_dimensionality(distances: np.ndarray, neighbours: Sequence[int]) -> np.ndarray:
    """Estimate −k / Σ_{i ≤ k} log(v_i / v_k), v_i the distance to the i-th nearest neighbour, float64 [n, K].

    Args:
        distances: to all m neighbours, in any order, float [n, m].
        neighbours: the K values of k, each in 1 … m. Estimates are at most 1e6 (equal distances), 0 where all k are 0.

    Reference:
        Amsaleg et al. 2015, Eq. 10; Ma et al. 2018, Eq. 4.

    Example:
        >>> float(local_dimensionality(np.array([[1.0, 4.0, 2.0]]), [3])[0, 0].round(4))
        1.4427
    """
    ordered = np.sort(distances, axis=1).astype(np.float64)
    logs = np.log(np.maximum(ordered, 1e-300))  # a copy of an image is infinitely near: a dimension of nearly 0
    sums = np.cumsum(logs, axis=1)
    index = np.asarray(neighbours) - 1
    spreads = np.asarray(neighbours) * logs[:, index] - sums[:, index]
    dimensions = np.asarray(neighbours) / np.maximum(spreads, 1e-6 * np.asarray(neighbours))
    return np.where(ordered[:, index] > 0, dimensions, 0.0)


@dataclass(frozen=True)
class Neighbourhoods:
    """Mini-batches of clean images; each image is compared with all of one batch but one.

    That one is the image itself or its clean version, where a batch has it, else it follows from its largest features:
    so images in and outside the batches have equally many neighbours, and a score does not depend on an image's name.
    """

    features: np.ndarray  # of the clean images, float [batches, size, width]
    place_of: dict[str, tuple[int, int]]  # origin id to batch and place, for the images in the batches

    @classmethod
    def build(cls, features: np.ndarray, ids: Sequence[str], seed: int) -> "Neighbourhoods":
        """Shuffle clean images, float [n, width], into batches of 100, or one if fewer, without the remainder."""
        size = min(_BATCH, len(ids))
        count = len(ids) // size
        rows = np.random.default_rng(seed).permutation(len(ids))[: count * size]
        place_of = {ids[row]: divmod(index, size) for index, row in enumerate(rows.tolist())}
        return cls(features[rows].reshape(count, size, -1), place_of)

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
        batches, places = (
            np.array([self._place(*pair) for pair in zip(records.column("origin_id"), values, strict=True)])
            .reshape(-1, 2)
            .T
        )
        found = np.empty((len(records), len(neighbours), len(layers)))
        for batch in np.unique(batches):
            rows = np.flatnonzero(batches == batch)
            kept = np.arange(self.neighbours + 1) != places[rows, None]
            for layer, columns in enumerate(layers):
                distances = cdist(values[rows][:, columns], self.features[batch][:, columns])
                among = distances[kept].reshape(len(rows), -1)
                found[rows, :, layer] = local_dimensionality(among, neighbours)
        return found

    def _place(self, origin: str, features: np.ndarray) -> tuple[int, int]:
        if origin in self.place_of:
            return self.place_of[origin]
        batches, size = self.features.shape[:2]
        # rounding rarely changes their order
        largest = np.argsort(features, kind="stable")[-_LARGEST:].astype(np.int32)
        index = zlib.crc32(largest.tobytes()) % (batches * size)
        return index // size, index % size


_GRID = (10, 20, 30, 40, 50, 60, 70, 80, 90)


@dataclass(frozen=True)
class _Fit:
    k: int
    layers: list[list[int]]
    neighbourhoods: Neighbourhoods
    logistic: Logistic


class LID(Detector):
    """Logistic regression on the local intrinsic dimensionality of every feature layer among clean `train` images.

    Neighbours are sought in mini-batches of 100 clean images, the image's own clean version not counted. Lee et al.
    take the batch that is scored; here it is of normal `train` records, so that a score depends on its own image alone.

    Args:
        neighbours: the grid of k, each at least 2; the one with the highest AUROC on `val` is taken, the first of
            equals. Values that exceed the neighbours there are, 99 or fewer, are left out.
        layers: modules to read, as for `FeatureProbe`.

    Raises:
        Refusal: in `fit`, if there are too few clean `train` records.

    Reference:
        Ma et al. 2018, algorithm 1; deep_Mahalanobis (Lee et al. 2018), `lib_generation.py`, `get_LID`.
    """

    name = "lid"

    def __init__(self, neighbours: Sequence[int] = _GRID, layers: list[str] | None = None, name: str = "lid") -> None:
        if not neighbours or min(neighbours) < 2:
            raise Refusal(
                f"`neighbours` should hold at least one number, each 2 or more. Got `neighbours = {list(neighbours)}`. "
                "Lee et al. take 10, 20, … 90."
            )
        self.neighbours = list(neighbours)
        self.layers = layers
        self.name = name
        self._fit: _Fit | None = None

    @property
    @override
    def fewest(self) -> int:
        return min(self.neighbours) + 1

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return [FeatureProbe(self.layers)]

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        train, val = (records.where(split=split) for split in ("train", "val"))
        layers = self._columns(records)
        neighbourhoods = self._neighbourhoods(train, seed)
        grid = [k for k in self.neighbours if k <= neighbourhoods.neighbours]
        seen, unseen = (neighbourhoods.dimensionality(part, self._values(part), layers, grid) for part in (train, val))
        best = -1.0
        for index, k in enumerate(grid):
            logistic = fit_logistic(seen[:, index], train.anomalous)
            value = auroc(logistic.score(unseen[:, index]), val.anomalous)
            if value > best:
                best, self._fit = value, _Fit(k, layers, neighbourhoods, logistic)
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        fit = self._fitted(self._fit)
        dimensions = fit.neighbourhoods.dimensionality(records, self._values(records), fit.layers, [fit.k])
        return fit.logistic.score(dimensions[:, 0])

    def state_dict(self) -> dict[str, Tensor]:
        """The regression, `k`, and the mini-batches.

        `clean` holds their features, float64 [batches, size, ΣC], `layer` the feature layer of each column, int64 [ΣC],
        and `ids` UTF-8 bytes of the JSON list of the images' ids, in the order of `clean`.
        """
        fit = self._fitted(self._fit)
        layer = np.concatenate([np.full(len(columns), index) for index, columns in enumerate(fit.layers)])
        ids = json.dumps(list(fit.neighbourhoods.place_of)).encode()
        return fit.logistic.state_dict() | {
            "k": torch.tensor(fit.k),
            "clean": torch.from_numpy(fit.neighbourhoods.features),
            "layer": torch.from_numpy(layer),
            "ids": torch.tensor(list(ids), dtype=torch.uint8),
        }

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        clean, layer = state["clean"].numpy(), state["layer"].numpy()
        ids = parse_json(bytes(state["ids"].tolist()))
        place_of = {name: divmod(index, clean.shape[1]) for index, name in enumerate(ids)}
        layers = [np.flatnonzero(layer == index).tolist() for index in range(int(layer.max()) + 1)]
        logistic = Logistic.from_state_dict(state)
        self._fit = _Fit(int(state["k"]), layers, Neighbourhoods(clean, place_of), logistic)

    def _columns(self, records: Records) -> list[list[int]]:
        return list(columns_by_layer(records.names(FeatureProbe(self.layers).name)).values())

    def _values(self, records: Records) -> np.ndarray:
        return records.probe(FeatureProbe(self.layers).name).astype(np.float64, copy=False)

    def _neighbourhoods(self, train: Records, seed: int) -> Neighbourhoods:
        clean = (train.anomalous == 0) & (train.column("id") == train.column("origin_id"))
        needed = min(self.neighbours) + 1
        if clean.sum() < needed:
            raise Refusal(
                f"`neighbours` should be below the number of clean normal records in `train`. Got {int(clean.sum())} "
                f"records and `neighbours = {self.neighbours}`. Name a smaller one."
            )
        return Neighbourhoods.build(self._values(train)[clean], train.column("id")[clean].tolist(), seed)
