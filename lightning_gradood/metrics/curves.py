"""Counts at every threshold, and what follows from them: ROC and precision-recall curves, thresholds, accuracies.

`validated` holds the refusals that every metric shares; `threshold_counts` sorts the scores for all metrics.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_gradood.core import Refusal

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def as_array(values: Any) -> np.ndarray:
    """Return a tensor, an array or a sequence as a numpy array; floating point tensors in float64, without graph."""
    if isinstance(values, Tensor):
        plain = values.detach().cpu()
        return np.asarray(plain.double() if plain.is_floating_point() else plain)
    return np.asarray(values)


def validated(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    """Return scores as float64 `[n]` and labels as int64 `[n]`.

    Refuses, with counts, anything but one finite score and one label 0 or 1 per image, with both classes present.
    """
    values, classes = as_array(scores).astype(np.float64), as_array(labels)
    _check_shapes(values, classes)
    _check_scores(values)
    _check_labels(classes)
    return values, classes.astype(np.int64)


def _check_shapes(scores: Floats, labels: NDArray[np.generic]) -> None:
    if scores.ndim != 1 or labels.ndim != 1:
        raise Refusal(
            "`scores` and `labels` should be one-dimensional, one value for each image. "
            f"Got `scores.shape = {scores.shape}` and `labels.shape = {labels.shape}`. Flatten them."
        )
    if len(scores) != len(labels):
        raise Refusal(
            "`scores` and `labels` should hold one value for each image. "
            f"Got {len(scores)} scores and {len(labels)} labels. Give both for the same images, in the same order."
        )
    if len(scores) == 0:
        raise Refusal(
            "`scores` should hold at least one normal and one anomalous image. Got no scores. "
            "Check that the source and the split hold images."
        )


def _check_scores(scores: Floats) -> None:
    if not np.isfinite(scores).all():
        nan, plus, minus = np.isnan(scores).sum(), np.isposinf(scores).sum(), np.isneginf(scores).sum()
        raise Refusal(
            f"`scores` should be finite. Got {nan} NaN, {plus} +inf and {minus} -inf among {len(scores)} scores. "
            "Look for a network or a detector that overflows."
        )


def _check_labels(labels: NDArray[np.generic]) -> None:
    anomalous, normal = labels == 1, labels == 0
    others = labels[~(anomalous | normal)]
    if len(others):
        raise Refusal(
            f"`labels` should be 0 (normal) or 1 (anomalous). Got {len(others)} other values among {len(labels)}, "
            f"the first is {others[0]}. Map the classes to 0 and 1."
        )
    if not (anomalous.any() and normal.any()):
        raise Refusal(
            "`labels` should hold both normal (0) and anomalous (1) images. "
            f"Got {normal.sum()} normal and {anomalous.sum()} anomalous. Give images of both kinds."
        )


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
    """Sort the scores once and count both classes from above; refuses what `validated` refuses."""
    values, classes = validated(scores, labels)
    order = np.argsort(values, kind="stable")
    values, classes = values[order], classes[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))  # tied scores stand together
    below = np.concatenate([[0], np.cumsum(classes)])  # anomalous among the lowest i
    anomalous = below[-1] - below[np.append(starts, len(values))]
    at_least = len(values) - np.append(starts, len(values))
    return ThresholdCounts(values[starts], anomalous, at_least - anomalous)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return the ROC curve with anomalous images as the positives; arguments as for `detection_metrics`.

    Returns:
        `(fpr, tpr, thresholds)`, each float64 `[k + 1]` for k distinct scores, from (0, 0) to (1, 1): the share of
        normal and of anomalous images with score ≥ threshold. The first threshold is +inf.

    Reference:
        scikit-learn's `roc_curve(drop_intermediate=False)`.

    Example:
        >>> fpr, tpr, thresholds = roc_curve([1.0, 2.0], [0, 1])
        >>> list(zip(fpr.tolist(), tpr.tolist()))
        [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    """
    counts = threshold_counts(scores, labels)
    fpr = counts.false_positives[::-1] / counts.normal
    tpr = counts.true_positives[::-1] / counts.anomalous
    return fpr, tpr, np.append(counts.values, np.inf)[::-1]


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return the precision-recall curve with anomalous images as the positives; arguments as for `detection_metrics`.

    For normal images as the positives, negate the scores and exchange the labels.

    Returns:
        `(precision, recall, thresholds)` for k distinct scores, by ascending threshold: precision and recall float64
        `[k + 1]`, the last point (1, 0) without a threshold; thresholds float64 `[k]`.

    Reference:
        scikit-learn's `precision_recall_curve(drop_intermediate=False)`.

    Example:
        >>> precision, recall, thresholds = precision_recall_curve([1.0, 2.0], [0, 1])
        >>> precision.tolist(), recall.tolist()
        ([0.5, 1.0, 1.0], [1.0, 1.0, 0.0])
    """
    counts = threshold_counts(scores, labels)
    called = counts.true_positives + counts.false_positives
    precision = np.append(counts.true_positives[:-1] / called[:-1], 1.0)
    return precision, counts.true_positives / counts.anomalous, counts.values


def accuracy_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """Return the plain and the balanced accuracy of calling an image anomalous iff its score is above `threshold`.

    Returns:
        Two fractions in [0, 1]: `plain`, the share of images that are called right, and `balanced`, the mean of that
        share among normal and among anomalous images.

    Example:
        >>> accuracy_at([0.1, 0.2, 0.3, 0.9], [0, 0, 0, 1], threshold=0.25)
        {'plain': 0.75, 'balanced': 0.8333333333333333}
    """
    values, classes = validated(scores, labels)
    if math.isnan(threshold):
        raise Refusal(f"`threshold` should be a number. Got `threshold = {threshold}`. Choose it on finite scores.")
    right = (values > threshold) == (classes == 1)
    balanced = (right[classes == 1].mean() + right[classes == 0].mean()) / 2
    return {"plain": float(right.mean()), "balanced": float(balanced)}


def best_balanced_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the threshold for `accuracy_at` with the best balanced accuracy, the smallest if several are equally good.

    It is the midpoint between two neighbouring distinct scores, or, if no threshold beats calling every image
    anomalous, the next float64 below the lowest score: always finite. Arguments as for `detection_metrics`.

    Example:
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
