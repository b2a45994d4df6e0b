"""What the label-free detectors on gradients share: their probes, and that normal images are all they are fitted on."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.normality import Normality, normal_training
from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.probes import GradientProbe, Probe
from lightning_gradood.records import Records


class LabelFreeDetector(Detector):
    """Fitted on the gradient representations of normal `train` records alone; no anomalous image is looked at.

    Args:
        label_designs: the representation is their norms side by side; [AllOnes] if none are named.
        whitening: from 0, standardised norms, to 1, fully whitened ones; see `Normality`.
    """

    label_free = True

    def __init__(self, label_designs: list[LabelDesign] | None, whitening: float) -> None:
        if not 0 <= whitening <= 1:
            raise Refusal(
                f"`whitening` should be between 0 (standardised) and 1 (whitened). Got `whitening = {whitening}`."
            )
        self.label_designs = list(label_designs) if label_designs else [AllOnes()]
        self.whitening = whitening
        self._normality: Normality | None = None

    @property
    def probes(self) -> Sequence[Probe]:
        """One gradient probe per label design."""
        return [GradientProbe(design) for design in self.label_designs]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Learn what is usual from normal `train` records; other rows are never looked at. See `Detector.fit`."""
        normal = normal_training(records)
        self._normality = Normality.of(normal, self.label_designs, self.whitening)
        self._fit(self._normality.of_images(normal), seed)
        return []

    def score(self, records: Records) -> np.ndarray:
        """How unusual, float64 [n]."""
        return np.asarray(self._score(self._fitted().of_images(records)), dtype=np.float64)

    def state(self) -> dict[str, Tensor]:
        """What is usual, as tensors."""
        return self._fitted().state() | self._state()

    def _fitted(self) -> Normality:
        if self._normality is None:
            raise RuntimeError(f"{type(self).__name__}.fit comes before score and state.")
        return self._normality

    @abstractmethod
    def _fit(self, normal: np.ndarray, seed: int) -> None:
        """Fit on values [n, D] of normal images."""

    @abstractmethod
    def _score(self, values: np.ndarray) -> np.ndarray:
        """Score values [n, D], higher = more anomalous."""

    def _state(self) -> dict[str, Tensor]:
        """What is learnt beyond the normality."""
        return {}
