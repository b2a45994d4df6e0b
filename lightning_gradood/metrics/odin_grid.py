"""ODIN's arithmetic: everything on a grid of thresholds, by sums of rectangles."""

import numpy as np

from lightning_gradood.metrics.checked import Floats, Integers

_STEPS = 100_000


def odin_grid_metrics(scores: Floats, labels: Integers) -> dict[str, float]:
    """Measure as ODIN's `calMetric.py` does, normal images being the positives.

    The original lays its grid over the softmax scores of ten classes (0.1 to 1, or 0.1 to 0.12 at temperature 1000); here
    it spans the given scores, so that any detector can be measured. Scores with heavy tails get few thresholds where it
    matters: the convention was made for probabilities.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), both present, `[n]`.

    Returns:
        `fpr_at_tpr95`, `detection_error`, `auroc`, `aupr_in`, `aupr_out`, fractions in [0, 1]. The first is missing if no
        threshold has a TPR of 94.95 to 95.05 %, as with few normal images; all are if every score is the same.
    """
    lowest, highest = float(-scores.max()), float(-scores.min())
    step = (highest - lowest) / _STEPS
    if step == 0:
        return {}
    grid = np.arange(lowest, highest, step)
    normal, anomalous = np.sort(-scores[labels == 0]), np.sort(-scores[labels == 1])  # confidences
    tpr, fpr = _share_at_least(normal, grid), _share_at_least(anomalous, grid)
    above = (len(anomalous) - np.searchsorted(anomalous, grid, side="right")) / len(anomalous)  # not at the threshold
    at95 = (tpr <= 0.9505) & (tpr >= 0.9495)
    found = {"fpr_at_tpr95": float(above[at95].mean())} if at95.any() else {}
    downwards = np.arange(highest, lowest, -step)
    missed, caught = _share_below(normal, downwards), _share_below(anomalous, downwards)
    return found | {
        "detection_error": float(((_share_below(normal, grid) + above) / 2).min()),
        "auroc": _rectangles(fpr, tpr),
        "aupr_in": _rectangles(*_recall_and_precision(tpr, fpr)),
        "aupr_out": _rectangles(*_recall_and_precision(caught, missed)),
    }


def _share_at_least(confidences: Floats, grid: Floats) -> Floats:
    return (len(confidences) - np.searchsorted(confidences, grid, side="left")) / len(confidences)


def _share_below(confidences: Floats, grid: Floats) -> Floats:
    return np.searchsorted(confidences, grid, side="left") / len(confidences)


def _recall_and_precision(true: Floats, false: Floats) -> tuple[Floats, Floats]:
    """Precision of rates, where any image is called positive."""
    called = true + false > 0
    return true[called], true[called] / (true + false)[called]


def _rectangles(widths_of: Floats, heights: Floats) -> float:
    """Area under a curve whose abscissa falls from 1: each height counts from the abscissa before to its own."""
    before = np.concatenate([[1.0], widths_of[:-1]])
    return float(((before - widths_of) * heights).sum() + widths_of[-1] * heights[-1])
