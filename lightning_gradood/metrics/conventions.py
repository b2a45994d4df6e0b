"""Metrics in the arithmetic of four published codebases, so that numbers can be compared with their tables."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lightning_gradood.metrics.curves import (
    Floats,
    Integers,
    auroc,
    detection_metrics,
    threshold_counts,
    validated,
)

_STEPS = 100_000


def conventional_metrics(scores: ArrayLike, labels: ArrayLike, convention: str) -> dict[str, float]:
    """Measure as one of the field's codebases does; what they call by one name often differs.

    - `lee2018` (Lee et al.'s deep_Mahalanobis): normal images are the positives. `tnr_at_tpr95` at the TPR *nearest* to
      95 %, `auroc`, `detection_accuracy` (an oracle's), `aupr_in` and `aupr_out` as areas under trapezoids. Images are
      passed one by one, and of tied ones the normal first, so that ties count against the detector.
    - `odin` (Liang et al.): normal images are the positives, on a grid of 100,000 thresholds, summed as rectangles,
      with precisions of *rates*, as if there were as many images of each kind. `fpr_at_tpr95` is the mean over
      thresholds with a TPR of 94.95 to 95.05 %, and missing if there are none; `detection_error` is an oracle's. The
      original's grid spans the softmax scores of ten classes, here it spans the given scores, so that heavy tails get
      few thresholds where it matters.
    - `openood` (OpenOOD 1.5): `fpr_at_tpr95` with *anomalous* images as the positives, `auroc`, `aupr_in` (normal
      images positive) and `aupr_out` as areas under trapezoids.
    - `energy` (Liu et al., after Hendrycks et al.): normal images are the positives. `fpr_at_tpr95` at the TPR
      *nearest* to 95 %, `auroc`, `aupr`, an average precision.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous; the codebases' are the negative.
        labels: 0 (normal) or 1 (anomalous), `[n]`.
        convention: One of `CONVENTIONS`.

    Returns:
        Their names to fractions in [0, 1]; a number that the original cannot compute is left out.

    Reference:
        deep_Mahalanobis_detector `calculate_log.py`; odin `calMetric.py`; OpenOOD `openood/evaluators/metrics.py`;
        energy_ood `utils/display_results.py`.

    Examples:
        >>> conventional_metrics([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], "energy")
        {'fpr_at_tpr95': 0.5, 'auroc': 0.75, 'aupr': 0.8333333333333333}
    """
    return CONVENTIONS[convention](*validated(scores, labels))


def _lee2018(scores: Floats, labels: Integers) -> dict[str, float]:
    normal = labels[np.lexsort((labels, -scores))] == 0  # by confidence, of equals the normal ones first
    missed = np.concatenate([[0], np.cumsum(normal)])  # normal images below the threshold
    found = np.arange(len(normal) + 1) - missed  # anomalous ones
    normals, anomalies = int(missed[-1]), int(found[-1])
    tpr, tnr = (normals - missed) / normals, 1 - (anomalies - found) / anomalies
    above, below = len(normal) - missed - found, missed + found
    precision_in = _with_ends(((normals - missed) / np.maximum(above, 1))[above > 0], 0.5, 0.0)
    precision_out = _with_ends((found / np.maximum(below, 1))[below > 0], 0.0, 0.5)
    return {
        "tnr_at_tpr95": float(tnr[np.abs(tpr - 0.95).argmin()]),
        "auroc": float(-np.trapezoid(_with_ends(tnr, 0.0, 1.0), _with_ends(tpr, 1.0, 0.0))),
        "detection_accuracy": float((tpr + tnr).max() / 2),
        "aupr_in": float(-np.trapezoid(precision_in, _with_ends(tpr[above > 0], 1.0, 0.0))),
        "aupr_out": float(np.trapezoid(precision_out, _with_ends(tnr[below > 0], 0.0, 1.0))),
    }


def _with_ends(values: Floats, first: float, last: float) -> Floats:
    return np.concatenate([[first], values, [last]])


def _odin(scores: Floats, labels: Integers) -> dict[str, float]:
    lowest, highest = float(-scores.max()), float(-scores.min())
    step = (highest - lowest) / _STEPS
    if step == 0:
        return {}
    normal, anomalous = np.sort(-scores[labels == 0]), np.sort(-scores[labels == 1])  # confidences
    grid, downwards = np.arange(lowest, highest, step), np.arange(highest, lowest, -step)
    (below, tpr), (_, fpr) = _shares(normal, grid), _shares(anomalous, grid)
    _, above = _shares(anomalous, grid, "right")  # not at the threshold
    at95 = (tpr <= 0.9505) & (tpr >= 0.9495)
    found = {"fpr_at_tpr95": float(above[at95].mean())} if at95.any() else {}
    (missed, _), (caught, _) = _shares(normal, downwards), _shares(anomalous, downwards)
    return found | {
        "detection_error": float(((below + above) / 2).min()),
        "auroc": _rectangles(fpr, tpr),
        "aupr_in": _rectangles(*_recall_and_precision(tpr, fpr)),
        "aupr_out": _rectangles(*_recall_and_precision(caught, missed)),
    }


def _shares(confidences: Floats, grid: Floats, side: Literal["left", "right"] = "left") -> tuple[Floats, Floats]:
    """Shares of sorted confidences below each threshold (or at it, with side `right`), and of the others."""
    below = np.searchsorted(confidences, grid, side=side)
    return below / len(confidences), (len(confidences) - below) / len(confidences)


def _recall_and_precision(true: Floats, false: Floats) -> tuple[Floats, Floats]:
    """Precision from rates, at thresholds where any image is called positive."""
    called = true + false > 0
    return true[called], true[called] / (true + false)[called]


def _rectangles(widths_of: Floats, heights: Floats) -> float:
    """Area under a curve whose abscissa falls from 1: each height counts from the previous abscissa to its own."""
    before = np.concatenate([[1.0], widths_of[:-1]])
    return float(((before - widths_of) * heights).sum() + widths_of[-1] * heights[-1])


def _openood(scores: Floats, labels: Integers) -> dict[str, float]:
    from sklearn.metrics import auc, precision_recall_curve, roc_curve  # as OpenOOD; slow to import

    fpr, tpr, _ = roc_curve(labels, scores)
    inwards, outwards = precision_recall_curve(1 - labels, -scores), precision_recall_curve(labels, scores)
    return {
        "fpr_at_tpr95": float(fpr[np.argmax(tpr >= 0.95)]),
        "auroc": auroc(scores, labels),
        "aupr_in": float(auc(inwards[1], inwards[0])),
        "aupr_out": float(auc(outwards[1], outwards[0])),
    }


def _energy(scores: Floats, labels: Integers) -> dict[str, float]:
    # Normal images are the positives.
    ours, counts = detection_metrics(scores, labels), threshold_counts(scores, labels).mirrored()
    recall = counts.true_positives[:-1] / counts.anomalous
    whole = int(np.flatnonzero(counts.true_positives == counts.anomalous)[-1])  # the highest threshold that finds all
    nearest = whole + int(np.abs(recall[whole:] - 0.95).argmin())
    fpr = float(counts.false_positives[nearest] / counts.normal)
    return {"fpr_at_tpr95": fpr, "auroc": ours["auroc"], "aupr": ours["aupr_in"]}


CONVENTIONS: dict[str, Callable[[Floats, Integers], dict[str, float]]] = {
    "lee2018": _lee2018,
    "odin": _odin,
    "openood": _openood,
    "energy": _energy,
}
