"""Nearest neighbours among normal gradient representations."""

import numpy as np
import torch
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lightning_gradood.detectors.label_free import LabelFreeDetector
from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import LabelDesign

_MEBIBYTES = 256  # of distances at a time


class GradientKNN(LabelFreeDetector):
    """Score by the distance to the k-th nearest normal representation, each seen from its predicted class' centre.

    Args:
        label_designs: the representation is their norms side by side; [AllOnes] if none are named.
        k: which neighbour; the last one where there are fewer.
        whitening: from 0, standardised norms, to 1, fully whitened ones.

    Reference:
        Sun et al. 2022, with gradient norms in place of normalised features.
    """

    def __init__(self, label_designs: list[LabelDesign] | None = None, k: int = 10, whitening: float = 0.5) -> None:
        super().__init__(label_designs, whitening)
        if k < 1:
            raise Refusal(f"`k` should be at least 1. Got `k = {k}`. 10 is the default.")
        self.k = k
        self._normal = np.empty((0, 0))
        self._neighbours = NearestNeighbors(algorithm="brute")

    @property
    def name(self) -> str:
        """`gradient_knn`."""
        return "gradient_knn"

    def _fit(self, normal: np.ndarray, seed: int) -> None:
        self._normal = normal
        # brute force, in chunks: trees do not help in this many dimensions
        self._neighbours = NearestNeighbors(n_neighbors=min(self.k, len(normal)), algorithm="brute").fit(normal)

    def _score(self, values: np.ndarray) -> np.ndarray:
        with config_context(working_memory=_MEBIBYTES):
            return np.asarray(self._neighbours.kneighbors(values)[0][:, -1])

    def _state(self) -> dict[str, Tensor]:
        """The normal representations, float64 [n, D]."""
        return {"normal": torch.from_numpy(np.ascontiguousarray(self._normal))}
