"""How well scores tell anomalous images from normal ones: exact, on scores of any range, each with its one definition.

Scores are float64 and used as given: higher is more anomalous, always; labels are 0 (normal) and 1 (anomalous), always.
Nothing squashes, rounds or interpolates; ties count half for AUROC and stand together for every threshold. What has no
number (a single class, NaN, an empty set) is refused with counts, never returned as 0 or NaN. All are pure functions of
NumPy arrays::

    >>> from lightning_gradood.metrics import bootstrap_auroc, detection_metrics
    >>> scores, labels = [-3.0, 0.5, 0.5, 1e9], [0, 0, 1, 1]
    >>> detection_metrics(scores, labels)["auroc"]
    0.875
    >>> bootstrap_auroc(scores, labels, origin_ids=["a", "b", "c", "d"], seed=0)
    (0.5, 1.0)

`auroc_interval` takes a formula for few images and AUROCs near 0 or 1, where a bootstrap promises too much.
`best_balanced_threshold` and `accuracy_at` give the accuracy at a threshold that was chosen on other images;
`roc_curve` and `precision_recall_curve` are for figures. `conventional_metrics` repeats the arithmetic of four published
codebases, whose numbers of one name differ: compare with their tables by it, and with nothing else. `conformal_threshold`
and `conformal_p_values` need normal scores alone, and promise how many normal images are flagged.
"""

from lightning_gradood.metrics.bootstrap import auroc_interval, bootstrap_auroc, newcombe_interval
from lightning_gradood.metrics.calibration import (
    binomial_interval,
    check_calibration,
    check_rate,
    conformal_p_values,
    conformal_threshold,
)
from lightning_gradood.metrics.conventions import CONVENTIONS, conventional_metrics
from lightning_gradood.metrics.curves import accuracy_at, best_balanced_threshold, precision_recall_curve, roc_curve
from lightning_gradood.metrics.detection import auroc, detection_metrics
from lightning_gradood.metrics.drift import ScoreDrift, score_drift

__all__ = [
    "CONVENTIONS",
    "ScoreDrift",
    "accuracy_at",
    "auroc",
    "auroc_interval",
    "best_balanced_threshold",
    "binomial_interval",
    "bootstrap_auroc",
    "check_calibration",
    "check_rate",
    "conformal_p_values",
    "conformal_threshold",
    "conventional_metrics",
    "detection_metrics",
    "newcombe_interval",
    "precision_recall_curve",
    "roc_curve",
    "score_drift",
]
