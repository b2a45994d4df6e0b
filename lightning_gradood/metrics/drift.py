"""Drift of scores against a reference: share flagged, distance of distributions, effect size."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp, mannwhitneyu

from lightning_gradood.core import Refusal
from lightning_gradood.metrics.calibration import binomial_interval
from lightning_gradood.metrics.curves import as_array


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
