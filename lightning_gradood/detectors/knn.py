"""Deep nearest neighbours: the distance to normal images in the classifier's penultimate features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.detectors.detector import Detector, check_neighbour_rank, neighbour_rank, normal_training_records
from lightning_gradood.probes import PenultimateProbe, Probe
from lightning_gradood.records import Records

if TYPE_CHECKING:  # it takes half a second to import
    from sklearn.neighbors import NearestNeighbors


_MOST = 50


class KNN(Detector):
    """Distance, in [0, 2], of unit-length penultimate features to the k-th nearest of the normal `train` records.

    Args:
        k: which neighbour, at least 1; by default one in 16 of the normal `train` records, and at most the paper's 50.

    Reference:
        Sun, Ming, Zhu, Li 2022, section 3.
    """

    name = "knn"
    needs_anomalies = False
    probes: Sequence[Probe] = (PenultimateProbe(),)

    def __init__(self, k: int | None = None, name: str = "knn") -> None:
        check_neighbour_rank(k)
        self.k = k
        self.name = name
        self._directions = np.empty((0, 0))
        self._neighbours: NearestNeighbors | None = None

    @property
    @override
    def fewest(self) -> int:
        return self.k or 2

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        self._keep(_directions(normal_training_records(records, self.fewest)))
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        distances, _ = self._fitted(self._neighbours).kneighbors(_directions(records))
        return np.asarray(distances[:, -1], dtype=np.float64)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        self._fitted(self._neighbours)
        return {"directions": torch.from_numpy(self._directions)}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._keep(state["directions"].numpy())

    def _keep(self, directions: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors  # takes half a second, which refusals and most runs do without

        # brute force, in chunks: trees do not help in hundreds of dimensions, and the score is the same
        self._directions = directions
        self._neighbours = NearestNeighbors(
            n_neighbors=neighbour_rank(self.k, len(directions), _MOST), algorithm="brute"
        ).fit(directions)


def _directions(records: Records) -> np.ndarray:
    features = records.probe(PenultimateProbe().name).astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12))  # as the paper's code; zero features stay zero
