"""All numbers of one detector on one anomaly source."""

from dataclasses import dataclass

import numpy as np

from lightning_gradood.records import NORMAL

OTHERS = "others"  # stands where a source's name stands when a detector was trained on all but the tested one


@dataclass(frozen=True)
class SplitScores:
    """Scores of one split.

    Args:
        ids: record ids, n of them.
        labels: 0 normal, 1 anomalous, int64 [n].
        scores: higher = more anomalous, float64 [n].
    """

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Every number of one detector on one anomaly source.

    Args:
        source: the anomaly source whose `test` it is measured on.
        detector: the detector's name.
        counts: split to `normal` and `anomalous` to number of records.
        metrics: `val` and `test` to metric to value, in [0, 1] but for norms of perturbations.
        auroc_interval: bootstrap 95 % interval of the test AUROC.
        threshold: chosen on `val`; anomalous iff score > threshold.
        scores: `val` and `test` to their scores.
        curves: one dict per epoch, empty if nothing was trained.
        seconds: time to fit and score.
        trained_on: the anomaly source whose `train` and `val` it was fitted on; `others` for all but the tested one, `normal`
            for a one-class detector, empty where nobody said.
    """

    source: str
    detector: str
    counts: dict[str, dict[str, int]]
    metrics: dict[str, dict[str, float]]
    auroc_interval: tuple[float, float]
    threshold: float
    scores: dict[str, SplitScores]
    curves: list[dict[str, float]]
    seconds: float
    trained_on: str = ""

    @property
    def transferred(self) -> bool:
        """Whether it was trained on one other anomaly source, as in a matrix."""
        return self.trained_on not in ("", self.source, NORMAL, OTHERS)

    @property
    def label(self) -> str:
        """The detector's name, with a source it was transferred from: `mlp@fgsm`; with `source` it is unique in a run."""
        return f"{self.detector}@{self.trained_on}" if self.transferred else self.detector
