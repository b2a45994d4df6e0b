"""The artefact audit: a detector that sees statistics of the images and nothing of what they show."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.probes import ImageStatisticsProbe, Probe
from lightning_gradood.records import Records

_FLOOR = 1e-12  # added before logarithms; far below the variance of one grey level, (1/255)²/12 = 1e-6


class ImageStatistics(Detector):
    """Logistic regression on mean, log variance, log high-frequency energy and JPEG blockiness.

    Where it does well, a source is easy for a reason other than its content: how the images were resized or compressed. The
    numbers of other detectors on that source then say little.
    """

    def __init__(self) -> None:
        self._logistic: Logistic | None = None

    @property
    def name(self) -> str:
        """`image_statistics`."""
        return "image_statistics"

    @property
    def probes(self) -> Sequence[Probe]:
        """The statistics."""
        return [ImageStatisticsProbe()]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Fit on `train`; nothing is random, and `val` is not looked at."""
        train = records.where(split="train")
        self._logistic = fit_logistic(_inputs(train), train.anomalous)
        return []

    def score(self, records: Records) -> np.ndarray:
        """Logits, float64 [n]."""
        return self._fitted().score(_inputs(records))

    def state(self) -> dict[str, Tensor]:
        """The regression."""
        return self._fitted().state()

    def _fitted(self) -> Logistic:
        if self._logistic is None:
            raise RuntimeError("ImageStatistics.fit comes before score and state.")
        return self._logistic


def _inputs(records: Records) -> np.ndarray:
    mean, variance, high_frequency, blockiness = records.probe(ImageStatisticsProbe().name).T
    return np.stack([mean, np.log(variance + _FLOOR), np.log(high_frequency + _FLOOR), blockiness], axis=1)
