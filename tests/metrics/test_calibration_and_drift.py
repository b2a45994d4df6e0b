"""Conformal thresholds keep their promise on fresh normal scores and agree with p-values; drift is what counting gives."""

import re
from fractions import Fraction

import numpy as np
import pytest
from asserts import assert_refused
from scipy.stats import binom, kstest, rankdata

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import conformal_p_values, conformal_threshold, score_drift

DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails": lambda rng, size: rng.standard_cauchy(size),
    "three values": lambda rng, size: rng.integers(0, 3, size).astype(float),
    "constant": lambda rng, size: np.zeros(size),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_the_share_of_fresh_normal_scores_flagged_is_at_most_the_rate(draw):
    """2,000 splits: one fresh score each, so that the number flagged is binomial; without ties it is what the formula says."""
    for n, rate in ((19, 0.05), (20, 0.05), (100, 0.05), (99, 0.01), (150, 0.01), (4, 0.2), (7, 0.5)):
        rng, flagged = np.random.default_rng(0), 0
        for _ in range(2000):
            scores = DRAWS[draw](rng, n + 1)
            flagged += scores[-1] > conformal_threshold(scores[:-1], rate)
        assert flagged <= binom(2000, rate).ppf(0.9999), (n, rate)
        if draw in ("normal", "heavy tails"):
            exact = np.floor((n + 1) * rate) / (n + 1)
            assert flagged >= binom(2000, exact).ppf(0.0001), (n, rate)


def test_p_values_are_ranks_and_an_image_is_flagged_exactly_if_its_is_at_most_the_rate():
    rng = np.random.default_rng(1)
    normal, scores = rng.integers(0, 20, 99).astype(float), rng.integers(-2, 23, 50).astype(float)
    expected = [rankdata(-np.append(normal, score), method="max")[-1] / 100 for score in scores]
    np.testing.assert_allclose(conformal_p_values(normal, scores), expected, rtol=1e-15)
    for n in (1, 2, 9, 19, 100, 999):
        normal = rng.integers(0, 3 + n // 3, n).astype(float)
        scores = np.concatenate([normal, normal + 0.5, [-1.0, n + 1.0]])
        p_values = [Fraction(1 + int((normal >= score).sum()), n + 1) for score in scores]
        for flagged in {1, 2, (n + 1) // 3, n} & set(range(1, n + 1)):
            rate = Fraction(flagged, n + 1)
            threshold = conformal_threshold(normal, float(rate))
            assert ((scores > threshold) == [p <= rate for p in p_values]).all(), (n, rate)


def test_rates_that_cannot_be_kept_are_refused_with_numbers_that_work():
    for n, rate in ((998, 0.001), (18, 0.05), (3, 0.2), (32, 0.03)):
        words = rf"at least (\d+) images in `val` .*{rate:g}`\. Got {n}\. Add images, or.* at least 1/{n + 1}\.$"
        with pytest.raises(Refusal, match=words) as error:
            conformal_threshold(np.arange(float(n)), rate)
        needed = float(re.search(words, str(error.value))[1])
        conformal_threshold(np.arange(needed), rate)
        with pytest.raises(Refusal):
            conformal_threshold(np.arange(needed - 1), rate)
        conformal_threshold(np.arange(float(n)), 1 / (n + 1))
    words, scores = "`detection.false_positive_rate` should be between 0 and 1, e.g. 0.05. Got", np.arange(99.0)
    rates = (0.0, 1.0, -0.1, 5.0, float("nan"))
    assert_refused(*((lambda rate=rate: conformal_threshold(scores, rate), words) for rate in rates))


@pytest.mark.parametrize("ties", [False, True])
def test_drift_is_what_counting_and_scipy_give(ties):
    rng = np.random.default_rng(1)
    reference, new = rng.normal(size=60), rng.normal(0.5, size=45)
    if ties:
        reference, new = reference.round(), new.round()
    found = score_drift(reference, new, reference > 1, new > 1)
    pairs = new[:, None] - reference
    assert found.effect == pytest.approx((pairs > 0).mean() - (pairs < 0).mean())
    distances = [abs((reference <= cut).mean() - (new <= cut).mean()) for cut in np.concatenate([reference, new])]
    assert found.distance == pytest.approx(max(distances))
    assert found.p_value == pytest.approx(kstest(reference, new).pvalue)
    assert (found.reference, found.new, found.new_flagged) == (60, 45, (new > 1).mean())
    assert found.low <= found.new_flagged <= found.high
    none = np.empty(0)
    for one, other in ((none, new), (reference, none)):
        refused = lambda one=one, other=other: score_drift(one, other, one > 0, other > 0)  # noqa: E731
        assert_refused((refused, "Both tables should hold scored images"))
