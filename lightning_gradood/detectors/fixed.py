"""Detectors that have nothing to learn: their score is a formula."""

from typing import final

from torch import Tensor

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.records import Records


class FixedDetector(Detector):
    """Looks at no record before it scores; its threshold is a quantile of normal `val` scores."""

    label_free = True

    @final
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Do nothing."""
        return []

    @final
    def state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}
