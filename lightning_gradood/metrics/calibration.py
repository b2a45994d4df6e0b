"""Thresholds and p-values from normal images alone, with a guarantee about the share of normal images flagged.

Split-conformal prediction: if n calibration scores and a new one are exchangeable (all normal, none used to fit the
detector), each of the n + 1 ranks of the new score is equally likely. So a threshold at the k-th smallest calibration
score is exceeded with a probability of at most 1 − k / (n + 1), whatever the distribution. This is the mean over
calibration sets; with one set the share flagged is Beta(n + 1 − k, k) distributed, for n = 100 and a rate of 5 %
between 1.6 and 9.9 % in 95 of 100 cases.

Reference:
    Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World"; Bates et al. 2023, "Testing for outliers
    with conformal p-values", Section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, ks_2samp, mannwhitneyu

from lightning_gradood.core import Refusal
from lightning_gradood.metrics.curves import as_array

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
        Refusal: the rate is not in (0, 1), or there are too few scores for it.

    Example:
        >>> conformal_threshold(np.arange(19.0), 0.05), conformal_threshold(np.arange(99.0), 0.05)
        (18.0, 94.0)
    """
    ordered = as_array(normal_scores)
    n = len(ordered)
    check_calibration(n, false_positive_rate, flag)
    flagged = math.floor((n + 1) * false_positive_rate + _ROUNDING)
    return float(np.partition(ordered, n - flagged)[n - flagged])


def conformal_p_values(normal_scores: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Conformal p-values: (1 + number of n `normal_scores` ≥ score) / (n + 1) for each of m `scores`.

    float64 [m], in [1 / (n + 1), 1]; at most the rate exactly where the score is above `conformal_threshold` of that
    rate.

    Example:
        >>> conformal_p_values(np.arange(99.0), np.array([98.5, 98.0, 0.0]))
        array([0.01, 0.02, 1.  ])
    """
    ordered = np.sort(as_array(normal_scores))
    at_least = len(ordered) - np.searchsorted(ordered, as_array(scores), side="left")
    return np.asarray((1.0 + at_least) / (len(ordered) + 1.0))


def binomial_interval(count: int, number: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of the share `count` / `number`; [0, 1] for a number of 0.

    Example:
        >>> low, high = binomial_interval(0, 100)
        >>> low, round(high, 4)
        (0.0, 0.0362)
    """
    if number == 0:
        return 0.0, 1.0
    found = binomtest(count, number).proportion_ci(method="exact")
    return float(found.low), float(found.high)


def check_calibration(number: int, false_positive_rate: float, flag: str = RATE) -> None:
    """Refuse a rate outside of (0, 1), or one that `number` < 1 / rate − 1 calibration images cannot keep."""
    check_rate(false_positive_rate, flag)
    needed = math.ceil(1 / false_positive_rate - 1 - _ROUNDING)
    if number < needed:
        raise Refusal(
            f"`data.normal` should have at least {needed} images in `val` for `{flag} = {false_positive_rate:g}`. "
            f"Got {number}. Add images, or choose a rate of at least {_rounded_up(number):g}."
        )


def check_rate(false_positive_rate: float, flag: str = RATE) -> None:
    """Refuse a rate outside of (0, 1)."""
    if not isinstance(false_positive_rate, int | float) or not 0 < false_positive_rate < 1:
        raise Refusal(f"`{flag}` should be between 0 and 1, e.g. 0.05. Got `{flag} = {false_positive_rate}`.")


def _rounded_up(number: int) -> float:
    """The smallest rate that so many images can keep, rounded up to three digits."""
    rate = 1 / (number + 1)
    scale = 10.0 ** (2 - math.floor(math.log10(rate)))
    return min(0.999, math.ceil(rate * scale - _ROUNDING) / scale)


@dataclass(frozen=True)
class ScoreDrift:
    """How scores of new images differ from those of reference images.

    Args:
        reference: number of reference images.
        new: number of new images.
        reference_flagged: share of the reference images that is flagged.
        new_flagged: share of the new images that is flagged.
        low: lower bound of the latter's binomial 95 % interval.
        high: its upper bound.
        distance: Kolmogorov and Smirnov's, the largest difference of the two cumulative distributions, in [0, 1]; it
            bounds the difference in the share flagged at any threshold.
        p_value: of that distance, two-sided.
        effect: Cliff's delta, P(new > reference) − P(new < reference), in [−1, 1]; above 0 new images are more
            anomalous.
    """

    reference: int
    new: int
    reference_flagged: float
    new_flagged: float
    low: float
    high: float
    distance: float
    p_value: float
    effect: float


def score_drift(
    reference: np.ndarray, new: np.ndarray, reference_flagged: np.ndarray, new_flagged: np.ndarray
) -> ScoreDrift:
    """Compare scores float [m] of new images with those [n] of reference images, with bool flags of both.

    Raises:
        Refusal: there are no scores of either.

    Reference:
        Cliff 1993, "Dominance statistics", for the effect size.

    Example:
        >>> flags = np.zeros(4, bool)
        >>> found = score_drift(np.arange(4.0), np.arange(4.0) + 10, flags, ~flags)
        >>> found.distance, found.effect, found.new_flagged
        (1.0, 1.0, 1.0)
    """
    reference, new = as_array(reference), as_array(new)
    reference_flagged, new_flagged = as_array(reference_flagged), as_array(new_flagged)
    if not len(reference) or not len(new):
        raise Refusal(
            f"Both tables should hold scored images. Got {len(reference)} in the reference and {len(new)} new ones."
        )
    test = ks_2samp(reference, new)
    wins = float(mannwhitneyu(new, reference, alternative="two-sided").statistic)
    count = int(new_flagged.sum())
    low, high = binomial_interval(count, len(new))
    return ScoreDrift(
        reference=len(reference),
        new=len(new),
        reference_flagged=float(reference_flagged.mean()),
        new_flagged=count / len(new),
        low=low,
        high=high,
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        effect=2 * wins / (len(new) * len(reference)) - 1,
    )
