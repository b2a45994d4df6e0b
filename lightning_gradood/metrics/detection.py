"""Metrics that need no chosen threshold: AUROC, AUPR, FPR95, best accuracy of any."""

import numpy as np
from numpy.typing import ArrayLike

from lightning_gradood.metrics.curves import ThresholdCounts, threshold_counts


def detection_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Measure how well `scores` separate anomalous from normal images, in every convention that tables use.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous; used as given, in float64.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        Six fractions in [0, 1]:

        - `auroc`: probability that an anomalous image scores above a normal one, ties counting half.
        - `aupr_out`: average precision with anomalous images as the positives.
        - `aupr_in`: average precision with normal images as the positives, scores negated.
        - `fpr95_out`: smallest false positive rate at which at least 95 % of the anomalous images are found.
        - `fpr95_in`: the same with normal images as the positives, scores negated.
        - `detection_accuracy`: maximum over thresholds of (TPR + 1 − FPR) / 2; an oracle chooses the threshold.

    Raises:
        Refusal: If scores are NaN or infinite, labels are not 0 and 1, a class is absent, or lengths differ.

    Reference:
        scikit-learn's `roc_auc_score` and `average_precision_score`; Lee et al.'s deep_Mahalanobis, `calculate_log.py`,
        for the detection accuracy (1 − ODIN's minimum error).

    Example:
        >>> detection_metrics([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])["auroc"]
        0.75
    """
    counts = threshold_counts(scores, labels)
    return {
        "auroc": _auroc(counts),
        "aupr_out": _average_precision(counts),
        "aupr_in": _average_precision(counts.mirrored()),
        "fpr95_out": _fpr95(counts),
        "fpr95_in": _fpr95(counts.mirrored()),
        "detection_accuracy": 0.5 + int(counts.advantage.max()) / (2 * counts.anomalous * counts.normal),
    }


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that an anomalous image scores above a normal one.

    A fraction in [0, 1], ties counting half, exact up to its last division; arguments as for `detection_metrics`.

    Example:
        >>> auroc([7.0, 7.0], [0, 1])
        0.5
    """
    return _auroc(threshold_counts(scores, labels))


def _auroc(counts: ThresholdCounts) -> float:
    # Twice the Mann-Whitney statistic, in integers: 2 for each normal image below an anomalous one, 1 for each tie.
    anomalous_at = -np.diff(counts.true_positives)
    not_above = counts.normal - counts.false_positives[1:]
    below = counts.normal - counts.false_positives[:-1]
    return int((anomalous_at * (below + not_above)).sum()) / (2 * counts.anomalous * counts.normal)


def _average_precision(counts: ThresholdCounts) -> float:
    found_at = -np.diff(counts.true_positives)
    precision = counts.true_positives[:-1] / (counts.true_positives + counts.false_positives)[:-1]
    return float((found_at * precision).sum() / counts.anomalous)


def _fpr95(counts: ThresholdCounts) -> float:
    enough = 20 * counts.true_positives >= 19 * counts.anomalous  # TPR ≥ .95 in integers
    return float(counts.false_positives[enough].min() / counts.normal)
