"""Mahalanobis: how far are an image's features from those of the nearest class?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import MahalanobisProbe, Probe
from lightning_gradood.records import Records

_MAGNITUDES = (0.0, 0.01, 0.005, 0.002, 0.0014, 0.001, 0.0005)


@dataclass(frozen=True)
class _Fit:
    """What `fit` has learnt: which magnitude, and over all taps the regression, or None where the last tap is enough."""

    index: int
    logistic: Logistic | None


class Mahalanobis(Detector):
    """Half the squared Mahalanobis distance to the closest class mean, a covariance shared by all classes.

    Alone (`mahalanobis_v`) it is that of the last tap. With `preprocessing` (`mahalanobis_p`) images take a step towards
    the closest mean first, of the magnitude with the highest AUROC on `val`, the first of equals. With `ensemble`
    (`mahalanobis_fe`) it is a logistic regression on the distances of all taps, fitted on `train`. Both together are
    `mahalanobis_p_fe`. Means and covariances are those of the classifier's training images, so `data.train` must be given.

    Args:
        preprocessing: whether images take a step first.
        ensemble: whether all taps are read.
        magnitudes: the steps to choose among, at least 0, in units of pixels in [0, 1]; without preprocessing not used.
        taps: modules to read, as for `MahalanobisProbe`.
        name: in tables, files and W&B keys; by default as above.

    Reference:
        Lee et al. 2018, section 2 and algorithm 1; deep_Mahalanobis, `OOD_Regression_Mahalanobis.py`.
    """

    def __init__(
        self,
        preprocessing: bool = False,
        ensemble: bool = False,
        magnitudes: Sequence[float] = _MAGNITUDES,
        taps: list[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.ensemble = ensemble
        self._probe = MahalanobisProbe(magnitudes if preprocessing else (0.0,), taps)
        suffix = "_p" * preprocessing + "_fe" * ensemble or "_v"
        self._name = name or f"mahalanobis{suffix}"
        self._fit: _Fit | None = None

    @property
    def name(self) -> str:
        """`mahalanobis_v`, `_p`, `_fe` or `_p_fe`, unless it was given another."""
        return self._name

    @property
    def probes(self) -> Sequence[Probe]:
        """The distances of every tap, for every magnitude."""
        return [self._probe]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Fit the regressions on `train`, choose the magnitude on `val`; see `Detector.fit`."""
        val = records.where(split="val")
        best = -1.0
        for index in range(len(self._probe.magnitudes)):
            fit = _Fit(index, self._regression(records.where(split="train"), index) if self.ensemble else None)
            value = auroc(self._scores(val, fit), val.anomalous)
            if value > best:
                best, self._fit = value, fit
        return []

    def score(self, records: Records) -> np.ndarray:
        """Half squared distances, or with `ensemble` logits; float64 [n]."""
        return self._scores(records, self._fitted())

    def state(self) -> dict[str, Tensor]:
        """The magnitude that was chosen, and the regression if there is one."""
        fit = self._fitted()
        chosen = {"magnitude": torch.tensor(self._probe.magnitudes[fit.index])}
        return chosen if fit.logistic is None else chosen | fit.logistic.state()

    def _scores(self, records: Records, fit: _Fit) -> np.ndarray:
        confidences = self._confidences(records, fit.index)
        return -confidences[:, -1] if fit.logistic is None else fit.logistic.score(confidences)

    def _regression(self, train: Records, index: int) -> Logistic:
        return fit_logistic(self._confidences(train, index), train.anomalous)

    def _confidences(self, records: Records, index: int) -> np.ndarray:
        """Of every tap for one magnitude, [n, taps]."""
        return records.probe(self._probe.name)[:, index :: len(self._probe.magnitudes)]

    def _fitted(self) -> _Fit:
        if self._fit is None:
            raise RuntimeError("Mahalanobis.fit comes before score and state.")
        return self._fit
