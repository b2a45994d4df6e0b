"""Intervals of the AUROC cover the true one as often as they say, and the bootstrap equals a loop that repeats records."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from lightning_gradood.metrics import auroc, auroc_interval
from lightning_gradood.metrics.intervals import _Resampling, newcombe_interval


def bootstrap(scores, labels, ids, resamples, seed):
    return _Resampling.of(scores, labels, ids).interval(resamples, seed)


def records(triples=20, normal_only=15, anomalous_only=11):
    """Return scores with ties, labels and origin ids: clean images with two perturbed each, and images on their own."""
    generator = np.random.default_rng(0)
    labels = np.array([0, 1, 1] * triples + [0] * normal_only + [1] * anomalous_only)
    ids = [f"cat{i}" for i in range(triples) for _ in range(3)]
    ids += [f"dog{i}" for i in range(normal_only)] + [f"noise{i}" for i in range(anomalous_only)]
    scores = np.round(generator.standard_normal(len(labels)) + labels, 1)
    order = generator.permutation(len(labels))
    return scores[order], labels[order], [ids[i] for i in order]


def resamples_of(scores, labels, ids, resamples, seed):
    plan = _Resampling.of(scores, labels, ids)
    ascending = sorted(range(len(ids)), key=lambda i: (scores[i], ids[i]))
    normal, anomalous = ([i for i in ascending if labels[i] == kind] for kind in (0, 1))
    origin = dict(zip(normal, plan.normal, strict=True)) | dict(zip(anomalous, plan.anomalous, strict=True))
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = plan.draw(generator)
        yield np.repeat(np.arange(len(ids)), [drawn[origin[i]] for i in range(len(ids))])


def test_the_bootstrap_equals_a_loop_that_repeats_whole_origins_stratum_by_stratum():
    for counts in [(20, 15, 11), (20, 0, 0), (0, 15, 11), (5, 0, 9), (5, 9, 0), (0, 1, 1)]:
        scores, labels, ids = records(*counts)
        chosen = list(resamples_of(scores, labels, ids, 50, seed=3))
        slow = [roc_auc_score(labels[one], scores[one]) for one in chosen]
        fast = bootstrap(scores, labels, ids, resamples=50, seed=3)
        assert fast == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=1e-12), counts
        names = np.array(ids)
        for one in chosen[:20]:
            drawn = [np.char.startswith(names[one], kind).sum() for kind in ("cat", "dog", "noise")]
            assert drawn == [3 * counts[0], *counts[1:]]
            times = np.bincount(one, minlength=len(ids))
            assert all(len(set(times[names == name])) == 1 for name in set(ids))


def coverage(interval, runs, true, normal, anomalous):
    generator, covered = np.random.default_rng(6), 0
    labels, ids = np.repeat([0, 1], [normal, anomalous]), np.arange(normal + anomalous)
    for run in range(runs):
        scores = generator.normal(size=len(ids)) + labels * norm.ppf(true) * 2**0.5
        low, high = interval(scores, labels, ids, resamples=200, seed=run)
        covered += low <= true <= high
    return covered / runs


def test_intervals_cover_the_true_auroc_as_often_as_they_say_also_for_few_images():
    # Binomial standard deviation of 0.95 over 400 runs is 0.011; percentile intervals of 60 images fall a little short.
    assert 0.9 < coverage(bootstrap, 400, 0.76, 60, 60) < 0.98
    for true, normal, anomalous in (
        (0.9, 10, 10), (0.95, 20, 20), (0.99, 30, 30), (0.999, 50, 50), (0.98, 129, 30), (0.97, 129, 129), (0.8, 60, 60),
    ):  # fmt: skip
        # binomial: 0.95 less three standard deviations of 300 runs; the bootstrap alone has 0.57 to 0.92 on the first six
        assert coverage(auroc_interval, 300, true, normal, anomalous) > 0.91, true


def test_it_holds_the_auroc_and_depends_on_the_seed_and_the_order_of_scores_alone():
    scores, labels, ids = records()
    interval = bootstrap(scores, labels, ids, resamples=200, seed=1)
    assert interval[0] < auroc(scores, labels) < interval[1]
    order = np.random.default_rng(8).permutation(len(ids))
    same = [
        (scores[order], labels[order], [ids[i] for i in order]),
        (np.exp(3 * scores), labels, np.array(ids)),
        (scores, labels, np.unique(ids, return_inverse=True)[1]),
    ]
    assert [bootstrap(*one, resamples=200, seed=1) for one in same] == [interval] * 3
    assert bootstrap(scores, labels, ids, resamples=200, seed=2) != interval


def test_ends_are_z_standard_errors_of_hanley_and_mcneil_away():
    for normal, anomalous in ((3, 5), (40, 200)):
        for area in (0.5, 0.87, 0.99, 1.0):
            low, high = newcombe_interval(area, normal, anomalous)
            size = (normal + anomalous) / 2
            for theta in {low, high} - {1.0}:
                q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)  # Hanley and McNeil 1982, Eq. 2
                variance = theta * (1 - theta) + (size - 1) * (q1 - theta**2 + q2 - theta**2)
                expected = norm.ppf(0.975) * (variance / (normal * anomalous)) ** 0.5
                assert abs(theta - area) == pytest.approx(expected, rel=1e-6)
            mirrored = newcombe_interval(1 - area, anomalous, normal)
            assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_it_is_the_bootstrap_where_enough_goes_wrong_and_copies_of_an_image_count_once():
    generator = np.random.default_rng(3)
    labels, ids = np.repeat([0, 1], 100), np.arange(200) % 150
    scores = generator.normal(size=200) + labels
    assert auroc(scores, labels) < 0.9
    arguments = scores, labels, ids, 100, 5
    assert auroc_interval(*arguments) == bootstrap(*arguments)
    assert auroc_interval(np.arange(200), labels, np.repeat(np.arange(20), 10)) == newcombe_interval(1.0, 10, 10)
