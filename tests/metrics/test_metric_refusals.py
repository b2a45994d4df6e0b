"""What has no number is refused with counts, by every metric alike."""

import numpy as np
import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import (
    accuracy_at,
    auroc,
    best_balanced_threshold,
    bootstrap_auroc,
    detection_accuracy,
    detection_metrics,
    precision_recall_curve,
    roc_curve,
)

METRICS = {
    "accuracy_at": lambda scores, labels: accuracy_at(scores, labels, 0.0),
    "auroc": auroc,
    "best_balanced_threshold": best_balanced_threshold,
    "bootstrap_auroc": lambda scores, labels: bootstrap_auroc(scores, labels, list(range(len(scores)))),
    "detection_accuracy": detection_accuracy,
    "detection_metrics": detection_metrics,
    "precision_recall_curve": precision_recall_curve,
    "roc_curve": roc_curve,
}
NAN, INF = float("nan"), float("inf")
CASES = {
    "nan and infinite": (
        [NAN, 1.0, NAN, INF, -INF],
        [0, 1, 0, 1, 1],
        r"`scores` should be finite\. Got 2 NaN, 1 \+inf and 1 -inf among 5 scores\. Look for",
    ),
    "infinite": ([INF, 1.0], [0, 1], r"Got 0 NaN, 1 \+inf and 0 -inf among 2 scores"),
    "all normal": ([1.0, 2.0], [0, 0], r"`labels` should hold both normal .* Got 2 normal and 0 anomalous\. Give"),
    "all anomalous": ([1.0, 2.0], [1, 1], r"Got 0 normal and 2 anomalous"),
    "empty": ([], [], r"at least one normal and one anomalous image\. Got no scores\. Check"),
    "lengths": ([1.0, 2.0, 3.0], [0, 1], r"one value for each image\. Got 3 scores and 2 labels\. Give"),
    "labels": (
        [1.0, 2.0, 3.0],
        [0, 1, 2],
        r"0 \(normal\) or 1 .* Got 1 other values among 3, the first is 2",
    ),
    "label -1": ([1.0, 2.0, 3.0], [-1, 1, -1], r"Got 2 other values among 3, the first is -1\. Map"),
    "label nan": ([1.0, 2.0], [NAN, 1], r"Got 1 other values among 2, the first is nan"),
    "label text": ([1.0, 2.0], ["normal", "anomalous"], r"Got 2 other values among 2, the first is normal"),
    "columns": (
        [[1.0], [2.0]],
        [0, 1],
        r"should be one-dimensional.* Got `scores.shape = \(2, 1\)` and `labels.shape = \(2,\)`\. Flatten",
    ),
    "scalar": (np.array(1.0), np.array(1), r"Got `scores.shape = \(\)`"),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
@pytest.mark.parametrize(("scores", "labels", "words"), CASES.values(), ids=CASES.keys())
def test_refusals_name_counts(metric, scores, labels, words):
    if metric is METRICS["bootstrap_auroc"] and np.ndim(scores) == 0:
        scores = np.reshape(scores, (1, 1))
        words = r"Got `scores.shape = \(1, 1\)`"
    with pytest.raises(Refusal, match=words):
        metric(scores, labels)
