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

    Example:
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

    Example:
        >>> conformal_p_values(np.arange(99.0), np.array([98.5, 98.0, 0.0]))
        array([0.01, 0.02, 1.  ])
    """
    ordered = np.sort(np.asarray(normal_scores))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores), side="left")
    return np.asarray((1.0 + at_least) / (len(ordered) + 1.0))


def binomial_interval(count: int, number: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of the share `count` / `number`; [0, 1] for a number of 0."""
    if number == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # slow to import

    found = binomtest(count, number).proportion_ci(method="exact")
    return float(found.low), float(found.high)


def check_calibration(number: int, false_positive_rate: float, flag: str = RATE) -> None:
    """Refuse a rate outside of (0, 1), or one that `number` < 1 / rate − 1 calibration images cannot keep."""
    if not 0 < false_positive_rate < 1:
        raise Refusal(f"`{flag}` should be between 0 and 1, e.g. 0.05. Got `{flag} = {false_positive_rate}`.")
    needed = math.ceil(1 / false_positive_rate - 1 - _ROUNDING)
    if number < needed:
        raise Refusal(
            f"`data.normal` should have at least {needed} images in `val` for `{flag} = {false_positive_rate:g}`. "
            f"Got {number}. Add images, or choose a rate of at least 1/{number + 1}."
        )


@dataclass(frozen=True)
class ScoreDrift:
    """How scores of new images differ from those of reference images.

    Args:
        reference, new: numbers of images.
        reference_flagged, new_flagged: shares of them that are flagged.
        low, high: bounds of the latter's binomial 95 % interval.
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

    Reference:
        Cliff 1993, "Dominance statistics", for the effect size.
    """
    if not len(reference) or not len(new):
        raise Refusal(
            f"Both tables should hold scored images. Got {len(reference)} in the reference and {len(new)} new ones."
        )
    from scipy.stats import ks_2samp, mannwhitneyu  # slow to import

    test = ks_2samp(reference, new)
    wins = float(mannwhitneyu(new, reference, alternative="two-sided").statistic)
    count = int(new_flagged.sum())
    return ScoreDrift(
        len(reference),
        len(new),
        float(reference_flagged.mean()),
        count / len(new),
        *binomial_interval(count, len(new)),
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        effect=2 * wins / (len(new) * len(reference)) - 1,
    )
