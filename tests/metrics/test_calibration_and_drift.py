"""Conformal thresholds keep their promise on fresh normal scores and agree with p-values; drift is what counting gives."""

import re
from fractions import Fraction

import numpy as np
import pytest
from asserts import assert_refused
from scipy.stats import binom, false_discovery_control, kstest, rankdata

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import ClassThresholds, conformal_p_values, conformal_threshold, discoveries, score_drift

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


def test_discoveries_are_scipys_and_their_normal_share_is_bounded_in_the_mean():
    rng = np.random.default_rng(2)
    for _ in range(200):
        p_values, rate = rng.integers(1, 30, rng.integers(1, 40)) / 30, rng.choice([0.05, 0.1, 0.3])
        assert (discoveries(p_values, rate) == (false_discovery_control(p_values) <= rate + 1e-9)).all()
    assert len(discoveries([], 0.1)) == 0
    shares, found = [], 0
    for _ in range(2000):  # 99 calibration scores, 40 normal and 10 anomalous images; the bound is 40 / 50 of the rate
        normal, anomalous = rng.normal(size=139), rng.normal(3, size=10)
        flags = discoveries(conformal_p_values(normal[:99], np.concatenate([normal[99:], anomalous])), 0.25)
        shares.append(flags[:40].sum() / max(flags.sum(), 1))
        found += flags[40:].sum()
    assert 0.15 < np.mean(shares) <= 0.2 + 4 * np.std(shares) / 2000**0.5
    assert found > 12_000


@pytest.mark.parametrize(
    ("counts", "alone"),
    [((40, 40, 40), {0, 1, 2}), ((60, 9, 8, 1), {}), ((100, 19, 20, 3), {0, 2}), ((25, 18), {}), ((10,) * 6, {})],
)
def test_of_images_judged_by_all_others_at_most_the_rate_is_flagged_in_all_and_in_classes_of_their_own(counts, alone):
    """Exact counts, without chance, as exchangeability gives them; falling back to the common threshold breaks them."""
    rng, rate, classes = np.random.default_rng(3), 0.05, np.repeat(np.arange(len(counts)), counts)
    for shift, ties in ((0, False), (1, False), (2, False), (1, True)):
        scores = rng.normal(size=len(classes)) + shift * np.array([0, 3, -2, 9, 1, 5])[classes]
        scores = scores.round() if ties else scores
        flagged, own = np.zeros(len(classes), dtype=bool), set()
        for row, predicted in enumerate(classes.tolist()):
            others = np.arange(len(classes)) != row
            thresholds = ClassThresholds(scores[others], classes[others], rate)
            flagged[row] = scores[row] > thresholds(classes[row : row + 1])[0]
            own |= {predicted} if thresholds.group(predicted) == [predicted] else set()
        assert own == set(alone)
        assert flagged.sum() <= rate * len(classes)
        assert [one for one in own if flagged[classes == one].sum() > rate * counts[one]] == []
    whole = ClassThresholds(scores, classes, rate)
    assert {one for one, count in enumerate(counts) if count < 20} < set(whole.group(77))  # which no image had


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
