"""One-class detectors on gradient representations: a Gaussian, nearest neighbours.

Norms vary with the predicted class, so `ClassGaussian` centres log norms on it and whitens them. Full whitening would
let the many directions in which normal images hardly differ hide the few in which anomalous ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import LOG_FLOOR, Refusal
from lightning_gradood.detectors.class_gaussian import ClassGaussian
from lightning_gradood.detectors.detector import Detector, check_neighbour_rank, neighbour_rank, normal_training_records
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.probes import GradientProbe, Probe
from lightning_gradood.records import Records

if TYPE_CHECKING:  # it takes half a second to import
    from sklearn.neighbors import NearestNeighbors


def log_norms(records: Records, label_designs: Sequence[LabelDesign]) -> np.ndarray:
    """Logarithms of the squared norms of all designs side by side, float64 [n, designs · L]."""
    values = [records.probe(f"gradients/{design.name}") for design in label_designs]
    return np.log(np.concatenate(values, axis=1) + LOG_FLOOR)


class OneClassDetector(Detector):
    """Base of detectors fitted on the gradient representations of normal `train` records alone."""

    needs_anomalies = False

    def __init__(self, label_designs: list[LabelDesign] | None, whitening: float) -> None:
        if not 0 <= whitening <= 1:
            raise Refusal(
                f"`whitening` should be between 0 (standardised) and 1 (whitened). Got `whitening = {whitening}`."
            )
        self._given = label_designs
        self.label_designs = list(label_designs) if label_designs else [AllOnes()]
        self.whitening = whitening
        self._gaussian: ClassGaussian | None = None

    @override
    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> OneClassDetector:
        return self if self._given else type(self)(**self.arguments | {"label_designs": list(label_designs)})

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return [GradientProbe(design) for design in self.label_designs]

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        normal = normal_training_records(records)
        values = log_norms(normal, self.label_designs)
        self._gaussian = ClassGaussian.of(values, normal.column("prediction"), self.whitening)
        return []

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._fitted(self._gaussian).state_dict()

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._gaussian = ClassGaussian.from_state_dict(state)

    def whitened(self, records: Records) -> np.ndarray:
        """Log norms, relative to the predicted class' centre and whitened, float64 [n, D]."""
        values = log_norms(records, self.label_designs)
        return self._fitted(self._gaussian).whitened(values, records.column("prediction"))


class GradientGaussian(OneClassDetector):
    """Squared distance from the predicted class' centre, in a metric between Euclid's and Mahalanobis'.

    Args:
        label_designs: the representation is their norms side by side; by default those of the experiment, or AllOnes.
        whitening: 1 gives the Mahalanobis distance with a shrunk tied covariance, 0 the standardised Euclidean one.

    Reference:
        Lee et al. 2018, Eq. 1, on gradient norms rather than features; Ledoit and Wolf 2004 for the shrinkage.
    """

    name = "gradient_gaussian"

    def __init__(self, label_designs: list[LabelDesign] | None = None, whitening: float = 0.5) -> None:
        super().__init__(label_designs, whitening)

    @override
    def score(self, records: Records) -> np.ndarray:
        return np.asarray(np.square(self.whitened(records)).sum(axis=1))


_MEBIBYTES = 256  # of distances at a time
_MOST = 10


class GradientKNN(OneClassDetector):
    """Distance to the k-th nearest normal representation, each relative to its predicted class' centre.

    Args:
        label_designs: the representation is their norms side by side; by default those of the experiment, or AllOnes.
        k: which neighbour, the last where there are fewer; by default one in 16 of the normal records, and 10 at most.
        whitening: from 0, standardised norms, to 1, fully whitened ones.

    Reference:
        Sun et al. 2022, with gradient norms in place of normalised features.
    """

    name = "gradient_knn"

    def __init__(
        self, label_designs: list[LabelDesign] | None = None, k: int | None = None, whitening: float = 0.5
    ) -> None:
        super().__init__(label_designs, whitening)
        check_neighbour_rank(k)
        self.k = k
        self._normal = np.empty((0, 0))
        self._neighbours: NearestNeighbors | None = None

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        super().fit(records, seed)
        self._keep(self.whitened(normal_training_records(records)))
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        from sklearn import config_context  # takes half a second, which refusals and most runs do without

        with config_context(working_memory=_MEBIBYTES):
            return np.asarray(self._fitted(self._neighbours).kneighbors(self.whitened(records))[0][:, -1])

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"normal": torch.from_numpy(np.ascontiguousarray(self._normal))}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._keep(state["normal"].numpy())

    def _keep(self, normal: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors  # see above

        self._normal = normal
        # brute force, in chunks: trees do not help in this many dimensions
        k = min(neighbour_rank(self.k, len(normal), _MOST), len(normal))
        self._neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(normal)
