"""How well scores tell anomalous images from normal ones: exact, on scores of any range, each with one definition.

`scores` are finite real numbers [n] of any range, used as given in float64: higher = more anomalous. `labels` [n] are 0
(normal) or 1 (anomalous), both present. Nothing is squashed, rounded or interpolated; ties count half for AUROC and
share every threshold. What has no number (a single class, NaN, an empty set) is refused with counts. All are pure
functions of NumPy arrays. `auroc_interval` takes a formula for few images and AUROCs near 0 or 1, where a bootstrap is
too narrow. `conventional_metrics` repeats the arithmetic of four published codebases, whose numbers of one name differ:
use it only to compare with their tables. `conformal_threshold` and `conformal_p_values` need normal scores alone, and
guarantee how many normal images are flagged, `discoveries` how many of those that are flagged in a batch are normal.

    >>> from lightning_gradood.metrics import detection_metrics
    >>> scores, labels = [-3.0, 0.5, 0.5, 1e9], [0, 0, 1, 1]
    >>> detection_metrics(scores, labels)["auroc"]
    0.875
"""

from lightning_gradood.metrics.calibration import (
    ClassThresholds,
    binomial_interval,
    check_calibration,
    conformal_p_values,
    conformal_threshold,
    discoveries,
    needed_images,
)
from lightning_gradood.metrics.conventions import CONVENTIONS, conventional_metrics
from lightning_gradood.metrics.curves import accuracy_at, auroc, best_balanced_threshold, detection_metrics
from lightning_gradood.metrics.drift import DriftTest, ScoreDrift, score_drift
from lightning_gradood.metrics.intervals import auroc_interval

__all__ = [
    "CONVENTIONS", "ClassThresholds", "DriftTest", "ScoreDrift", "accuracy_at", "auroc", "auroc_interval",
    "best_balanced_threshold", "binomial_interval", "check_calibration", "conformal_p_values",
    "conformal_threshold", "conventional_metrics", "detection_metrics", "discoveries", "needed_images", "score_drift",
]  # fmt: skip
