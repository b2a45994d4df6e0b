"""ROC and precision-recall curves, one point for each distinct score, for figures."""

import numpy as np
from numpy.typing import ArrayLike

from lightning_gradood.metrics.checked import Floats
from lightning_gradood.metrics.sweep import sweep


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return the ROC curve with anomalous images as the positives.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        `(fpr, tpr, thresholds)`, each float64 `[k + 1]` for k distinct scores, from (0, 0) to (1, 1): the share of
        normal and of anomalous images with score ≥ threshold. The first threshold is +inf.

    Raises:
        Refusal: As `detection_metrics`.

    Reference:
        scikit-learn's `roc_curve(drop_intermediate=False)`.

    Example:
        >>> fpr, tpr, thresholds = roc_curve([1.0, 2.0], [0, 1])
        >>> list(zip(fpr.tolist(), tpr.tolist()))
        [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    """
    counts = sweep(scores, labels)
    fpr = counts.false_positives[::-1] / counts.normal
    tpr = counts.true_positives[::-1] / counts.anomalous
    return fpr, tpr, np.append(counts.values, np.inf)[::-1]


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return the precision-recall curve with anomalous images as the positives.

    For normal images as the positives, negate the scores and exchange the labels.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        `(precision, recall, thresholds)` for k distinct scores, by ascending threshold: precision and recall float64
        `[k + 1]`, the last point (1, 0) without a threshold; thresholds float64 `[k]`.

    Raises:
        Refusal: As `detection_metrics`.

    Reference:
        scikit-learn's `precision_recall_curve(drop_intermediate=False)`.

    Example:
        >>> precision, recall, thresholds = precision_recall_curve([1.0, 2.0], [0, 1])
        >>> precision.tolist(), recall.tolist()
        ([0.5, 1.0, 1.0], [1.0, 1.0, 0.0])
    """
    counts = sweep(scores, labels)
    called = counts.true_positives + counts.false_positives
    precision = np.append(counts.true_positives[:-1] / called[:-1], 1.0)
    return precision, counts.true_positives / counts.anomalous, counts.values
