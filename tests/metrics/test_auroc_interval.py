"""The interval of an AUROC covers the true one as often as it says, also for ten images that are perfectly apart."""

import numpy as np
import pytest
from scipy.stats import norm

from lightning_gradood.metrics import auroc, auroc_interval, bootstrap_auroc, newcombe_interval


@pytest.mark.parametrize(
    ("true", "normal", "anomalous"),
    [(0.9, 10, 10), (0.95, 20, 20), (0.99, 30, 30), (0.999, 50, 50), (0.98, 129, 30), (0.97, 129, 129), (0.8, 60, 60)],
)
def test_interval_covers_the_true_auroc_as_often_as_it_says(true, normal, anomalous):
    generator = np.random.default_rng(0)
    labels, ids = np.repeat([0, 1], [normal, anomalous]), np.arange(normal + anomalous)
    covered, runs = 0, 300
    for run in range(runs):
        scores = generator.normal(size=len(ids)) + labels * norm.ppf(true) * 2**0.5
        low, high = auroc_interval(scores, labels, ids, resamples=200, seed=run)
        covered += low <= true <= high
    # binomial: 0.95 less three standard deviations of 300 runs; the bootstrap alone has 0.57 to 0.92 on the first six
    assert covered / runs > 0.91


@pytest.mark.parametrize(("normal", "anomalous", "lowest"), [(1, 1, 0.3), (10, 10, 0.81), (129, 104, 0.984)])
def test_perfect_order_of_few_images_is_no_certainty(normal, anomalous, lowest):
    number = normal + anomalous
    low, high = auroc_interval(np.arange(number), np.repeat([0, 1], [normal, anomalous]), np.arange(number))
    assert (0 < low < lowest, high) == (True, 1.0)
    low, high = auroc_interval(-np.arange(number), np.repeat([0, 1], [normal, anomalous]), np.arange(number))
    assert (low, 1 - lowest < high < 1) == (0.0, True)


@pytest.mark.parametrize("area", [0.5, 0.87, 0.99, 1.0])
@pytest.mark.parametrize(("normal", "anomalous"), [(3, 5), (40, 200)])
def test_ends_are_z_standard_errors_of_hanley_and_mcneil_away(area, normal, anomalous):
    low, high = newcombe_interval(area, normal, anomalous)
    size = (normal + anomalous) / 2
    for theta in {low, high} - {1.0}:
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)  # Hanley and McNeil 1982, Eq. 2
        variance = theta * (1 - theta) + (size - 1) * (q1 - theta**2 + q2 - theta**2)
        assert abs(theta - area) == pytest.approx(norm.ppf(0.975) * (variance / (normal * anomalous)) ** 0.5, rel=1e-6)
    mirrored = newcombe_interval(1 - area, anomalous, normal)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_where_enough_goes_wrong_it_is_the_bootstrap():
    generator = np.random.default_rng(3)
    labels, ids = np.repeat([0, 1], 100), np.arange(200) % 150
    scores = generator.normal(size=200) + labels
    assert auroc(scores, labels) < 0.9
    arguments = scores, labels, ids, 100, 5, 0.9
    assert auroc_interval(*arguments) == bootstrap_auroc(*arguments)


def test_copies_of_an_image_count_once():
    labels, ids = np.repeat([0, 1], 100), np.repeat(np.arange(20), 10)
    assert auroc_interval(np.arange(200), labels, ids) == newcombe_interval(1.0, 10, 10)
