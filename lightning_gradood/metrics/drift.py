"""Drift of scores: two tables compared, and a sequential test that bets against exchangeability with reference scores.

In the test each new score is ranked among the n reference scores, and how often each of these n + 1 ranks occurred is counted. If
all scores are exchangeable, the next rank has the probabilities (1 + count) / (n + 1 + images) of Pólya's urn,
so that its randomised p-value is uniform and independent of those before. Bets on it multiply a capital of 1 whose
expectation stays 1: it ever reaches 1 / a with a probability of at most a (Ville's inequality), however long the stream
and however few the reference scores. With p-values of a fixed calibration set alone it would, sooner or later.

Bets are on more anomalous or less anomalous scores, of all images or of some, from any image on: image t starts with
1 / (t (t + 1)) of the first capital, so that quiet years cost little.

Reference:
    Vovk, Nouretdinov and Gammerman 2003, "Testing exchangeability on-line"; Vovk 2021, "Testing randomness online"; Shin,
    Ramdas and Rinaldo 2023, "E-detectors", for the mixture over starting times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np

from lightning_gradood.core import Refusal
from lightning_gradood.metrics.calibration import binomial_interval

_SEED = 0  # of the tie breaks and of the ranks' randomisation: a stream has one result
_SMALLEST = 1e-12  # p-value
# Bets on a p-value u: 1 + slope · (1 − 2u), on all images; 1 − share + share · u^(−3/4) / 4, on some that are extreme
_SLOPES, _SHARES = np.array([0.3, 0.9, -0.3, -0.9]), np.array([0.03, 0.1, 0.3, 1.0])
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_BETS = len(_SLOPES) + 2 * len(_SHARES)


@dataclass(frozen=True, eq=False)
class DriftTest:
    """Where the test stands after some images.

    Args:
        reference: scores of n usual images, float64 [n], finite.
        false_alarm: bound of the probability of an alarm at any time, in (0, 1), as long as nothing drifts.
        images: number of new scores until now.
        alarm: the image, counted from 1, at which the capital first reached 1 / `false_alarm`; 0 for none.
        largest: natural logarithm of the largest capital.
        counts: of new scores that 0, 1, … n of the reference scores exceed, [n + 1]; at first empty.
        bets: natural logarithms of what each bet has made of its part of the capital.
        trace: natural logarithms of the capital after every so many images, see `every`, for a figure.
    """

    reference: np.ndarray
    false_alarm: float
    images: int = 0
    alarm: int = 0
    largest: float = 0.0
    counts: list[int] = field(default_factory=list)
    bets: list[float] = field(default_factory=lambda: [-float(np.log(2 * _BETS))] * _BETS)
    trace: list[float] = field(default_factory=list)

    @property
    def evidence(self) -> float:
        """Natural logarithm of the capital."""
        return float(np.logaddexp.reduce([*self.bets, -np.log(self.images + 2)]))

    @property
    def every(self) -> int:
        """From how many images to how many the trace goes on: a power of 2, so that it has at most 1,000 points."""
        return 1 << (self.images // 1000).bit_length()

    def after(self, scores: Iterable[float]) -> Self:
        """The test after more scores, finite, in their order; in one call or several with the same result."""
        values = np.asarray(scores, dtype=np.float64)
        last, alarm, largest = self.images + len(values), self.alarm, self.largest
        every = replace(self, images=last).every
        trace = self.trace[every // self.every - 1 :: every // self.every]
        draws = np.random.Generator(np.random.PCG64(_SEED).advance(2 * self.images)).random((len(values), 2))
        p_values, counts = self.p_values(values, draws)
        bets, gains = np.array(self.bets), np.log(bet_factors(np.clip(p_values, _SMALLEST, 1 - _SMALLEST)))
        for image, gain in enumerate(gains, start=self.images + 1):
            bets = bets + gain
            capital = float(np.logaddexp.reduce([*bets, -np.log(image + 1)]))
            alarm = alarm or (image if capital >= -np.log(self.false_alarm) else 0)
            largest = max(largest, capital)
            trace += [capital] if image % every == 0 else []
            bets = np.logaddexp(bets, -np.log((image + 1) * (image + 2) * _BETS))
        return replace(self, images=last, alarm=alarm, largest=largest, counts=counts, bets=bets.tolist(), trace=trace)

    @cached_property
    def _ordered(self) -> tuple[np.ndarray, np.ndarray]:
        """The reference scores, ascending, and random numbers by which equal ones are ordered."""
        ties = np.random.Generator(np.random.PCG64(_SEED + 1)).random(len(self.reference))
        order = np.lexsort((ties, self.reference))
        return self.reference[order], ties[order]

    def p_values(self, values: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """P-values of new scores, small for high ones, and the counts after them; `draws` are uniform in [0, 1), [m, 2]."""
        (ordered, ties), found = self._ordered, np.empty(len(values))
        counts = np.array(self.counts or [0] * (len(ordered) + 1))
        places = zip(*(np.searchsorted(ordered, values, side=side) for side in _SIDES), draws, strict=True)
        for row, (left, right, (tie, part)) in enumerate(places):
            rank = len(ordered) - left - int(np.searchsorted(ties[left:right], tie))  # reference scores above
            found[row] = rank + counts[:rank].sum() + part * (1 + counts[rank])
            counts[rank] += 1
        return found / (len(ordered) + 1 + self.images + np.arange(len(values))), counts.tolist()


def bet_factors(p_values: np.ndarray) -> np.ndarray:
    """What each bet multiplies its part of the capital by, of mean 1 for uniform p-values in (0, 1), float64 [m, bets]."""
    u = p_values[:, None]
    extremes = [1 - _SHARES + _SHARES / 4 * one**-0.75 for one in (u, 1 - u)]
    return np.concatenate([1 + _SLOPES * (1 - 2 * u), *extremes], axis=1)


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
