"""Intervals of the AUROC: by bootstrap over clean images with all that was made from them; by a formula near 0 and 1.

Where almost all pairs are in order a bootstrap is too narrow: with ten images of each kind perfectly separated every
resample's AUROC is 1, and the interval [1, 1], although the true value may well be 0.8.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_gradood.metrics.curves import Integers, auroc, validated

Ids: TypeAlias = Sequence[Hashable] | NDArray[np.generic]
_FEW = 5  # wrong decisions among the images of the smaller class: below it normal approximations are known to fail


def auroc_interval(
    scores: ArrayLike, labels: ArrayLike, origin_ids: Ids, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % interval of the AUROC that also holds for few images and for AUROCs near 0 and 1.

    The percentile bootstrap, unless min(AUROC, 1 − AUROC) times the number of origins of the smaller class is below 5;
    then `newcombe_interval` with the numbers of origins in each class. An origin (a clean image) is drawn with all its
    records, so a clean image and its attacked version are both in a resample or both absent. Origins are drawn with
    replacement within three strata, those with normal records only, with anomalous ones only, and with both, each as
    often as it has origins; so every resample holds both classes. The result does not depend on the order of the records.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.
        origin_ids: The id of the clean image that each record comes from, `[n]`; strings or integers.
        resamples: Number of resamples, at least 1.
        seed: Seed of NumPy's default generator.

    Reference:
        Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 (strata) and 13.3 (percentiles).

    Examples:
        >>> low, high = auroc_interval(range(20), [0] * 10 + [1] * 10, origin_ids=range(20))
        >>> round(low, 3), high
        (0.8, 1.0)
    """
    resampling, area = _Resampling.of(scores, labels, origin_ids), auroc(scores, labels)
    if min(area, 1 - area) * min(resampling.origins) < _FEW:
        return newcombe_interval(area, *resampling.origins)
    return resampling.interval(resamples, seed)


def newcombe_interval(area: float, normal: int, anomalous: int) -> tuple[float, float]:
    """Return the 95 % score interval of an AUROC: all θ less than z standard errors away from the observed `area`.

    The standard error is Hanley and McNeil's at θ, not at the observed value, and thus is not 0 where that is 1:

        √(θ (1 − θ) (1 + N (1 − θ)/(2 − θ) + N θ/(1 + θ)) / (m n)) with N = (m + n)/2 − 1,

    for m `normal` and n `anomalous` independent images.

    Reference:
        Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
        Statistics in Medicine 25, method 5.
    """
    from scipy.special import ndtri

    z = float(ndtri(0.975))
    return _lowest(area, normal, anomalous, z), 1 - _lowest(1 - area, normal, anomalous, z)  # alike for 1 − θ


def _lowest(area: float, m: int, n: int, z: float) -> float:
    if area == 0:
        return 0.0

    def beyond(theta: float) -> float:
        """Squared distance minus squared standard errors, without the factor 1 − θ that both have for an area of 1."""
        N = (m + n) / 2 - 1
        spread = z * z * theta * (1 + N * (1 - theta) / (2 - theta) + N * theta / (1 + theta)) / (m * n)
        return 1 - theta - spread if area == 1 else (area - theta) ** 2 - (1 - theta) * spread

    from scipy.optimize import brentq  # slow to import

    return float(brentq(beyond, 0.0, area, xtol=1e-12))


@dataclass(frozen=True)
class _Resampling:
    """Records sorted once by score, so that the AUROC of a resample is a sum over multiplicities of origins.

    `strata` are numbers of origins with normal records only, anomalous only, and both. `normal` and `anomalous` are
    origins by ascending score, numbered stratum by stratum; `below` and `not_above` count normal records with a lower,
    and with a lower or equal score for each anomalous one.
    """

    strata: list[int]
    normal: Integers
    anomalous: Integers
    below: Integers
    not_above: Integers

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike, origin_ids: Ids) -> _Resampling:
        values, classes = validated(scores, labels)
        names = np.unique(np.asarray(origin_ids), return_inverse=True)[1]
        order = np.lexsort((names, values))
        values, classes, names = values[order], classes[order], names[order]
        origins, strata = _origins_by_stratum(classes, names)
        normal, anomalous = values[classes == 0], values[classes == 1]
        below, not_above = (np.searchsorted(normal, anomalous, side=side) for side in ("left", "right"))
        return cls(strata, origins[classes == 0], origins[classes == 1], below, not_above)

    @property
    def origins(self) -> tuple[int, int]:
        """Numbers of origins with normal and with anomalous records."""
        normal, anomalous, both = self.strata
        return normal + both, anomalous + both

    def interval(self, resamples: int, seed: int) -> tuple[float, float]:
        generator = np.random.default_rng(seed)
        low, high = np.quantile([self.auroc(self.draw(generator)) for _ in range(resamples)], [0.025, 0.975])
        return float(low), float(high)

    def draw(self, generator: np.random.Generator) -> Integers:
        """How often each origin is in a resample."""
        draws = [np.bincount(generator.integers(size, size=size), minlength=size) for size in self.strata if size]
        return np.concatenate(draws)

    def auroc(self, multiplicities: Integers) -> float:
        """The AUROC of a resample: the Mann-Whitney statistic with multiplicities as weights, ties counting half."""
        normal, anomalous = multiplicities[self.normal], multiplicities[self.anomalous]
        lowest = np.concatenate([[0], np.cumsum(normal)])  # normal images among the lowest i
        wins = lowest[self.below] + lowest[self.not_above]
        return float(anomalous @ wins) / (2 * int(anomalous.sum()) * int(lowest[-1]))


def _origins_by_stratum(classes: Integers, names: Integers) -> tuple[Integers, list[int]]:
    """Renumber origins stratum by stratum, within one by first appearance, so that memory is read in order."""
    count = int(names.max()) + 1
    kinds = np.zeros(count, dtype=np.int64)  # 1: normal records only, 2: anomalous only, 3: both
    kinds[names[classes == 0]] |= 1
    kinds[names[classes == 1]] |= 2
    first = np.full(count, len(names))
    np.minimum.at(first, names, np.arange(len(names)))
    numbers = np.empty(count, dtype=np.int64)
    numbers[np.lexsort((first, kinds))] = np.arange(count)
    return numbers[names], np.bincount(kinds, minlength=4)[1:].tolist()
