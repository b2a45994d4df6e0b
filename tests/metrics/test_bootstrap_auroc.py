"""The interval equals a slow loop that really repeats records, covers what it promises, and keeps perturbed together."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import auroc, bootstrap_auroc
from lightning_gradood.metrics.bootstrap import _multiplicities, _plan


def _records(triples, normal_only, anomalous_only):
    """Return scores with ties, labels and origin ids: clean images with two perturbed each, and images on their own."""
    generator = np.random.default_rng(0)
    labels = np.array([0, 1, 1] * triples + [0] * normal_only + [1] * anomalous_only)
    ids = [f"cat{i}" for i in range(triples) for _ in range(3)]
    ids += [f"dog{i}" for i in range(normal_only)] + [f"noise{i}" for i in range(anomalous_only)]
    scores = np.round(generator.standard_normal(len(labels)) + labels, 1)
    order = generator.permutation(len(labels))
    return scores[order], labels[order], [ids[i] for i in order]


COUNTS = [(20, 15, 11), (20, 0, 0), (0, 15, 11), (5, 0, 9), (5, 9, 0), (0, 1, 1)]


def _resamples(scores, labels, ids, resamples, seed):
    """Yield the record numbers of each resample, repeated as often as their origin was drawn."""
    plan = _plan(scores, labels, ids)
    ascending = sorted(range(len(ids)), key=lambda i: (scores[i], ids[i]))
    normal = [i for i in ascending if labels[i] == 0]
    anomalous = [i for i in ascending if labels[i] == 1]
    origin = dict(zip(normal, plan.normal, strict=True)) | dict(zip(anomalous, plan.anomalous, strict=True))
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = _multiplicities(plan.strata, generator)
        yield np.repeat(np.arange(len(ids)), [drawn[origin[i]] for i in range(len(ids))])


@pytest.mark.parametrize("counts", COUNTS)
def test_interval_equals_a_loop_that_repeats_the_records(counts):
    scores, labels, ids = _records(*counts)
    slow = [roc_auc_score(labels[chosen], scores[chosen]) for chosen in _resamples(scores, labels, ids, 50, seed=3)]
    fast = bootstrap_auroc(scores, labels, ids, resamples=50, seed=3, confidence=0.9)
    assert fast == pytest.approx(np.quantile(slow, [0.05, 0.95]), abs=1e-12)


@pytest.mark.parametrize("counts", COUNTS)
def test_every_resample_draws_whole_origins_stratum_by_stratum(counts):
    scores, labels, ids = _records(*counts)
    triples, normal_only, anomalous_only = counts
    names = np.array(ids)
    for chosen in _resamples(scores, labels, ids, 20, seed=4):
        assert np.isin(chosen, np.flatnonzero(np.char.startswith(names, "cat"))).sum() == 3 * triples
        assert np.isin(chosen, np.flatnonzero(np.char.startswith(names, "dog"))).sum() == normal_only
        assert np.isin(chosen, np.flatnonzero(np.char.startswith(names, "noise"))).sum() == anomalous_only
        times = np.bincount(chosen, minlength=len(ids))
        assert all(len(set(times[names == name])) == 1 for name in set(ids))


def test_draws_are_uniform_with_replacement():
    scores, labels, ids = _records(0, 40, 1)
    times = [np.bincount(chosen, minlength=41)[labels == 0] for chosen in _resamples(scores, labels, ids, 4000, seed=5)]
    # Multinomial: mean 1 and variance 1 - 1/40 for each origin; six standard errors of 4,000 draws.
    assert np.mean(times, axis=0) == pytest.approx(np.ones(40), abs=6 / np.sqrt(4000))
    assert np.var(times) == pytest.approx(1 - 1 / 40, abs=0.05)


def test_interval_covers_the_true_auroc_as_often_as_it_says():
    generator = np.random.default_rng(6)
    labels, ids = np.repeat([0, 1], 60), list(range(120))
    true = 0.7602499389065233  # P(a + 1 > b) for standard normal a, b: the normal distribution function at 1/√2
    covered = 0
    for _ in range(400):
        low, high = bootstrap_auroc(generator.standard_normal(120) + labels, labels, ids, resamples=200, confidence=0.9)
        covered += low <= true <= high
    # Binomial standard deviation of 0.9 over 400 runs is 0.015; percentile intervals of 60 images fall a little short.
    assert 0.84 < covered / 400 < 0.95


def test_attacked_images_make_the_interval_wider_than_independent_images():
    generator = np.random.default_rng(7)
    clean = generator.standard_normal(50)
    scores, labels = np.repeat(np.concatenate([clean, clean + 0.5]), 20), np.repeat([0, 1], 1000)
    perturbed = np.tile(np.repeat(np.arange(50), 20), 2)
    low, high = bootstrap_auroc(scores, labels, np.arange(2000), resamples=200)
    low_copies, high_copies = bootstrap_auroc(scores, labels, perturbed + 50 * labels, resamples=200)
    # Twenty copies of each image hold no more information than one: √20 = 4.5 times as wide.
    assert 3 < (high_copies - low_copies) / (high - low) < 6
    # A difference between perturbed is more certain than one between others.
    low_perturbed, high_perturbed = bootstrap_auroc(scores, labels, perturbed, resamples=200)
    assert high_perturbed - low_perturbed < 0.7 * (high_copies - low_copies)


def test_interval_holds_the_auroc_and_depends_on_the_seed_alone():
    scores, labels, ids = _records(20, 15, 11)
    interval = bootstrap_auroc(scores, labels, ids, resamples=200, seed=1)
    assert interval[0] < auroc(scores, labels) < interval[1]
    assert bootstrap_auroc(scores, labels, ids, resamples=200, seed=1) == interval
    assert bootstrap_auroc(scores, labels, ids, resamples=200, seed=2) != interval
    assert all(type(end) is float for end in interval)


def test_order_of_the_records_changes_nothing():
    scores, labels, ids = _records(20, 15, 11)
    order = np.random.default_rng(8).permutation(len(ids))
    shuffled = bootstrap_auroc(scores[order], labels[order], [ids[i] for i in order], resamples=50)
    assert shuffled == bootstrap_auroc(scores, labels, ids, resamples=50)


def test_monotone_maps_and_kinds_of_ids_change_nothing():
    scores, labels, ids = _records(20, 15, 11)
    expected = bootstrap_auroc(scores, labels, ids, resamples=50)
    assert bootstrap_auroc(np.exp(3 * scores), labels, np.array(ids), resamples=50) == expected
    numbers = np.unique(ids, return_inverse=True)[1]
    assert bootstrap_auroc(scores, labels, numbers, resamples=50) == expected


def test_more_confidence_is_wider():
    scores, labels, ids = _records(20, 15, 11)
    low, high = bootstrap_auroc(scores, labels, ids, confidence=0.99)
    low_half, high_half = bootstrap_auroc(scores, labels, ids, confidence=0.5)
    assert low < low_half < high_half < high


def test_separated_scores_have_no_width():
    assert bootstrap_auroc([1.0, 2.0, 3.0], [0, 0, 1], ["a", "b", "c"]) == (1.0, 1.0)


def test_refusals_name_the_setting():
    with pytest.raises(Refusal, match=r"`origin_ids` should hold one id .* Got 1 ids and 2 scores\. Give"):
        bootstrap_auroc([0.0, 1.0], [0, 1], ["a"])
    with pytest.raises(Refusal, match=r"`resamples` should be at least 1\. Got `resamples = 0`\. 1000 is usual"):
        bootstrap_auroc([0.0, 1.0], [0, 1], ["a", "b"], resamples=0)
    for confidence in (0.0, 1.0, 95, float("nan")):
        with pytest.raises(Refusal, match=rf"`confidence` should be between 0 and 1\. Got `confidence = {confidence}`"):
            bootstrap_auroc([0.0, 1.0], [0, 1], ["a", "b"], confidence=confidence)
