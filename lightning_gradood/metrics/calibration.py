"""Thresholds and p-values from normal images alone, with a guarantee about the share of normal images flagged.

Split-conformal prediction: if n calibration scores and a new one are exchangeable (all normal, none used to fit the
detector), each of the n + 1 ranks of the new score is equally likely. So a threshold at the k-th smallest calibration
score is exceeded with a probability of at most 1 − k / (n + 1), whatever the distribution. This is the mean over
calibration sets; with one set the share flagged is Beta(n + 1 − k, k) distributed, for n = 100 and a rate of 5 %
between 1.6 and 9.9 % in 95 of 100 cases.

Reference:
    Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", Section 4.5 for thresholds by class; Bates
    et al. 2023, "Testing for outliers with conformal p-values", Section 2.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lightning_gradood.core import Refusal

RATE = "detection.false_positive_rate"  # the flag of the rate in an experiment
_ROUNDING = 1e-9  # (n + 1) · rate is a whole number where it should be: 1000 · 0.001


def conformal_threshold(normal_scores: ArrayLike, false_positive_rate: float, flag: str = RATE) -> float:
    """Threshold that a fresh normal image's score exceeds with a probability of at most `false_positive_rate`.

    Args:
        normal_scores: of n normal images that the detector was not fitted on, float [n]; higher = more anomalous.
        false_positive_rate: in (0, 1).
        flag: named in a refusal.

    Returns:
        The k-th smallest score, k = n + 1 − ⌊(n + 1) · rate⌋; an image is anomalous if its score is above it.

    Raises:
        Refusal: there are too few scores for the rate.

    Examples:
        >>> conformal_threshold(np.arange(19.0), 0.05), conformal_threshold(np.arange(99.0), 0.05)
        (18.0, 94.0)
    """
    ordered = np.asarray(normal_scores)
    n = len(ordered)
    check_calibration(n, false_positive_rate, flag)
    flagged = math.floor((n + 1) * false_positive_rate + _ROUNDING)
    return float(np.partition(ordered, n - flagged)[n - flagged])


def conformal_p_values(normal_scores: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Conformal p-values: (1 + number of n `normal_scores` ≥ score) / (n + 1) for each of m `scores`.

    float64 [m], in [1 / (n + 1), 1]; at most the rate exactly where the score is above `conformal_threshold` of that
    rate.

    Examples:
        >>> conformal_p_values(np.arange(99.0), np.array([98.5, 98.0, 0.0]))
        array([0.01, 0.02, 1.  ])
    """
    ordered = np.sort(np.asarray(normal_scores))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores), side="left")
    return np.asarray((1.0 + at_least) / (len(ordered) + 1.0))


def discoveries(p_values: ArrayLike, false_discovery_rate: float) -> np.ndarray:
    """Benjamini and Hochberg's choice among m p-values, bool [m]: the k smallest, for the largest k that are ≤ k · rate / m.

    The expected share of normal images among the chosen ones is at most the rate, in (0, 1), also where all p-values come
    from the same calibration images. No p-value of n of them is below 1 / (n + 1): fewer than m / (rate · (n + 1))
    anomalous images are never found.

    Reference:
        Benjamini and Hochberg 1995; Bates et al. 2023, Theorem 2.

    Examples:
        >>> discoveries([0.01, 0.5, 0.04, 0.8], 0.1).tolist()
        [True, False, True, False]
    """
    values = np.asarray(p_values, dtype=np.float64)
    ordered, places = np.sort(values), np.arange(1, len(values) + 1)
    chosen = np.flatnonzero(ordered * len(values) <= places * false_discovery_rate * (1 + _ROUNDING))
    return np.asarray(values <= (ordered[chosen[-1]] if len(chosen) else 0.0))


@dataclass(frozen=True, eq=False)
class ClassThresholds:
    """Conformal thresholds by predicted class: of normal images of each group of classes at most the same share is flagged.

    A class with enough images has a threshold of its own. The others share one, calibrated on the images of them all and,
    where these are too few as well, of the smallest classes with enough; at worst it is the common threshold. Groups are
    made as if the image to be judged were one of the n + 1 that are counted, so that in each all are exchangeable.

    Args:
        scores: of n normal images that the detector was not fitted on, float [n]; higher = more anomalous.
        classes: predicted for them, int [n].
        false_positive_rate: in (0, 1).
    """

    scores: np.ndarray
    classes: np.ndarray
    false_positive_rate: float

    @cached_property
    def counts(self) -> Counter[int]:
        """Number of images of each class that has any."""
        return Counter(self.classes.tolist())

    @cached_property
    def _found(self) -> dict[int, float]:
        return {}

    def group(self, predicted: int) -> list[int]:
        """Classes whose images calibrate the threshold of a predicted class."""
        needed, counts = needed_images(self.false_positive_rate), self.counts + Counter([predicted])
        ordered = sorted(counts, key=lambda one: (counts[one], one))
        sizes = np.array([counts[one] for one in ordered])
        small, enough = (int(np.searchsorted(values, needed, side="right")) for values in (sizes, np.cumsum(sizes)))
        shared = ordered[: max(small, enough + 1)] if small else []
        return shared if predicted in shared else [predicted]

    def of(self, predicted: int) -> float:
        """The threshold of a predicted class; a Refusal where there are too few images in all."""
        if predicted not in self._found:
            scores = self.scores[np.isin(self.classes, self.group(predicted))]
            self._found[predicted] = conformal_threshold(scores, self.false_positive_rate)
        return self._found[predicted]

    def __call__(self, predictions: np.ndarray) -> np.ndarray:
        """Thresholds, float64 [m], of images with these predicted classes, int [m]."""
        names, rows = np.unique(predictions, return_inverse=True)
        return np.array([self.of(one) for one in names.tolist()], dtype=np.float64)[rows]


def binomial_interval(count: int, number: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of the share `count` / `number`; [0, 1] for a number of 0."""
    if number == 0:
        return 0.0, 1.0
    from scipy.special import betaincinv

    low = betaincinv(count, number - count + 1, 0.025) if count else 0.0
    return float(low), float(betaincinv(count + 1, number - count, 0.975) if count < number else 1.0)


def needed_images(false_positive_rate: float) -> int:
    """Smallest number of calibration images that can keep a rate in (0, 1): 1 / rate − 1, rounded up."""
    return math.ceil(1 / false_positive_rate - 1 - _ROUNDING)


def check_calibration(number: int, false_positive_rate: float, flag: str = RATE) -> None:
    """Refuse a rate outside of (0, 1), or one that `number` < 1 / rate − 1 calibration images cannot keep."""
    if not 0 < false_positive_rate < 1:
        raise Refusal(f"`{flag}` should be between 0 and 1, e.g. 0.05. Got `{flag} = {false_positive_rate}`.")
    needed = needed_images(false_positive_rate)
    if number < needed:
        raise Refusal(
            f"`data.normal` should have at least {needed} images in `val` for `{flag} = {false_positive_rate:g}`. "
            f"Got {number}. Add images, or choose a rate of at least 1/{number + 1}."
        )
