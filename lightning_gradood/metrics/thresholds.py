"""Accuracy at a given threshold, and the threshold that is best on the images it is chosen on."""

import math
import sys

import numpy as np
from numpy.typing import ArrayLike

from lightning_gradood.errors import Refusal
from lightning_gradood.metrics.checked import checked
from lightning_gradood.metrics.sweep import sweep


def accuracy_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """Return the plain and the balanced accuracy of calling an image anomalous iff its score is above `threshold`.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.
        threshold: In the scores' unit; an image exactly at it is called normal.

    Returns:
        Two fractions in [0, 1]: `plain`, the share of images that are called right, and `balanced`, the mean of that
        share among normal and among anomalous images.

    Raises:
        Refusal: As `detection_metrics`, or if `threshold` is NaN.

    Example:
        >>> accuracy_at([0.1, 0.2, 0.3, 0.9], [0, 0, 0, 1], threshold=0.25)
        {'plain': 0.75, 'balanced': 0.8333333333333333}
    """
    values, classes = checked(scores, labels)
    if math.isnan(threshold):
        raise Refusal(f"`threshold` should be a number. Got `threshold = {threshold}`. Choose it on finite scores.")
    right = (values > threshold) == (classes == 1)
    balanced = (right[classes == 1].mean() + right[classes == 0].mean()) / 2
    return {"plain": float(right.mean()), "balanced": float(balanced)}


def best_balanced_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the threshold with the best balanced accuracy on these images, the smallest if several are equally good.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        The midpoint between two neighbouring distinct scores, in the scores' unit, for `accuracy_at`. If no threshold
        beats calling every image anomalous, the next float64 below the lowest score: always a finite number.

    Raises:
        Refusal: As `detection_metrics`.

    Example:
        >>> best_balanced_threshold([-2.0, 1.0, 3.0, 8.0], [0, 0, 1, 1])
        2.0
    """
    counts = sweep(scores, labels)
    lowest_found = int(np.argmax(counts.advantage))  # the lowest score called anomalous; argmax takes the first best
    if lowest_found == 0:
        return math.nextafter(counts.values[0], -sys.float_info.max)
    below, above = counts.values[lowest_found - 1], counts.values[lowest_found]
    midpoint = below / 2 + above / 2  # halved first: the sum could overflow
    # Neighbouring floats have nothing between them: the lower one still separates, as anomalous is above, not at.
    return float(midpoint if midpoint < above else below)
