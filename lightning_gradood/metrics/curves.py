"""Counts at every threshold, and what follows from them: AUROC and its kin, curves, thresholds, accuracies."""

import math
import sys
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_gradood.core import Refusal

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def validated(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    """Return scores as float64 `[n]` and labels as int64 `[n]`; refuse, with counts, what no metric is defined for."""
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != classes.shape or not len(values):
        raise Refusal(
            "`scores` and `labels` should be one-dimensional, one value for each of at least two images. "
            f"Got shapes {values.shape} and {classes.shape}. Give both for the same images, in the same order."
        )
    if wrong := int((~np.isfinite(values)).sum()):
        raise Refusal(
            f"`scores` should be finite. Got {wrong} NaN or infinite ones among {len(values)} scores. "
            "Look for a network or a detector that overflows."
        )
    normal, anomalous = int((classes == 0).sum()), int((classes == 1).sum())
    if not (normal and anomalous and normal + anomalous == len(classes)):
        raise Refusal(
            "`labels` should be 0 (normal) or 1 (anomalous), and both occur. Got "
            f"{normal} normal and {anomalous} anomalous images of {len(classes)}. Give images of both kinds."
        )
    return values, classes.astype(np.int64)


@dataclass(frozen=True)
class ThresholdCounts:
    """Numbers of images that score at least as high as each of the k distinct scores `values`, ascending.

    `true_positives` are anomalous and `false_positives` normal images with score ≥ `values[i]`, then 0 for a threshold
    above all: int64 `[k + 1]`.
    """

    values: Floats
    true_positives: Integers
    false_positives: Integers

    @property
    def anomalous(self) -> int:
        """Number of anomalous images."""
        return int(self.true_positives[0])

    @property
    def normal(self) -> int:
        """Number of normal images."""
        return int(self.false_positives[0])

    @property
    def advantage(self) -> Integers:
        """(TPR − FPR) · `anomalous` · `normal` at each threshold, in integers, so that ties are exact; `[k + 1]`."""
        return self.true_positives * self.normal - self.false_positives * self.anomalous

    def mirrored(self) -> "ThresholdCounts":
        """Return the counts of negated scores with the classes exchanged, so that normal images are the positives."""
        return ThresholdCounts(
            values=-self.values[::-1],
            true_positives=self.normal - self.false_positives[::-1],
            false_positives=self.anomalous - self.true_positives[::-1],
        )


def threshold_counts(scores: ArrayLike, labels: ArrayLike) -> ThresholdCounts:
    """Sort the scores once and count both classes from above."""
    values, classes = validated(scores, labels)
    order = np.argsort(values, kind="stable")
    values, classes = values[order], classes[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))  # tied scores stand together
    below = np.concatenate([[0], np.cumsum(classes)])  # anomalous among the lowest i
    anomalous = below[-1] - below[np.append(starts, len(values))]
    at_least = len(values) - np.append(starts, len(values))
    return ThresholdCounts(values[starts], anomalous, at_least - anomalous)


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

    Examples:
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


def accuracy_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """Return the plain and the balanced accuracy of calling an image anomalous iff its score is above `threshold`.

    `plain` is the share of images that are called right, `balanced` the mean of that share among normal and anomalous
    ones.

    Examples:
        >>> accuracy_at([0.1, 0.2, 0.3, 0.9], [0, 0, 0, 1], threshold=0.25)
        {'plain': 0.75, 'balanced': 0.8333333333333333}
    """
    values, classes = validated(scores, labels)
    right = (values > threshold) == (classes == 1)
    balanced = (right[classes == 1].mean() + right[classes == 0].mean()) / 2
    return {"plain": float(right.mean()), "balanced": float(balanced)}


def best_balanced_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the threshold for `accuracy_at` with the best balanced accuracy, the smallest if several are equally good.

    It is the midpoint between two neighbouring distinct scores, or, if no threshold beats calling every image
    anomalous, the next float64 below the lowest score: always finite. Arguments as for `detection_metrics`.

    Examples:
        >>> best_balanced_threshold([-2.0, 1.0, 3.0, 8.0], [0, 0, 1, 1])
        2.0
    """
    counts = threshold_counts(scores, labels)
    lowest_found = int(np.argmax(counts.advantage))  # the lowest score called anomalous; argmax takes the first best
    if lowest_found == 0:
        return math.nextafter(counts.values[0], -sys.float_info.max)
    below, above = counts.values[lowest_found - 1], counts.values[lowest_found]
    midpoint = below / 2 + above / 2  # halved first: the sum could overflow
    # Neighbouring floats have nothing between them: the lower one still separates, as anomalous is above, not at.
    return float(midpoint if midpoint < above else below)
