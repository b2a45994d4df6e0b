"""Local intrinsic dimensionality of features among mini-batches of clean images."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from lightning_gradood.records import Records

_BATCH = 100  # images, as in the original


def local_dimensionality(distances: np.ndarray, neighbours: Sequence[int]) -> np.ndarray:
    """Estimate −k / Σ_{i ≤ k} log(v_i / v_k) for several k, v_i the distance to the i-th nearest neighbour.

    Args:
        distances: to all neighbours, in any order, float [n, m].
        neighbours: the K values of k, each in 1 … m.

    Returns:
        float64 [n, K]; at most 1e6, which stands for equal distances, and 0 where all k are 0.

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
    """Mini-batches of clean images, and the rule that says which of them an image is compared with.

    Every image meets all images of its batch but one: itself or its own clean version, where that is a member, else the
    member of its place. So members and strangers, which have the same number of neighbours, have comparable numbers.

    Args:
        features: of the clean images, float [batches, size, width].
        place_of: origin id to batch and place, for the members.
    """

    features: np.ndarray
    place_of: dict[str, tuple[int, int]]

    @classmethod
    def build(cls, features: np.ndarray, ids: Sequence[str], seed: int) -> "Neighbourhoods":
        """Shuffle clean images into batches of 100, or one of all if there are fewer; the remainder is left out.

        Args:
            features: float [n, width].
            ids: of the n images.
            seed: of the shuffle.
        """
        size = min(_BATCH, len(ids))
        count = len(ids) // size
        rows = np.random.default_rng(seed).permutation(len(ids))[: count * size]
        place_of = {ids[row]: divmod(index, size) for index, row in enumerate(rows.tolist())}
        return cls(features[rows].reshape(count, size, -1), place_of)

    @property
    def neighbours(self) -> int:
        """How many images each is compared with."""
        return int(self.features.shape[1]) - 1

    def dimensionality(
        self, records: Records, values: np.ndarray, taps: Sequence[Sequence[int]], neighbours: Sequence[int]
    ) -> np.ndarray:
        """Estimate the dimensionality at every record and tap.

        Args:
            records: n records, for their origins.
            values: their features, float [n, width].
            taps: columns of each of the T taps.
            neighbours: K values of k.

        Returns:
            float64 [n, K, T].
        """
        batches, places = np.array([self._place(origin) for origin in records.column("origin_id")]).reshape(-1, 2).T
        found = np.empty((len(records), len(neighbours), len(taps)))
        for batch in np.unique(batches):
            rows = np.flatnonzero(batches == batch)
            kept = np.arange(self.neighbours + 1) != places[rows, None]
            for tap, columns in enumerate(taps):
                distances = cdist(values[rows][:, columns], self.features[batch][:, columns])
                among = distances[kept].reshape(len(rows), -1)
                found[rows, :, tap] = local_dimensionality(among, neighbours)
        return found

    def _place(self, origin: str) -> tuple[int, int]:
        if origin in self.place_of:
            return self.place_of[origin]
        batches, size = self.features.shape[:2]
        index = zlib.crc32(origin.encode()) % (batches * size)  # the same in every process and run
        return index // size, index % size
