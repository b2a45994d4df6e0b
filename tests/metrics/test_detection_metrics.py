"""scikit-learn and loops over all thresholds are the judges of every number."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lightning_gradood.metrics import auroc, detection_accuracy, detection_metrics, precision_recall_curve, roc_curve

KEYS = {"auroc", "aupr_out", "aupr_in", "fpr95_out", "fpr95_in", "detection_accuracy"}


def _sets():
    generator = np.random.default_rng(0)
    labels = np.array([0, 1, *generator.integers(0, 2, 398)])
    normal = generator.standard_normal(400) + 0.7 * labels
    return {
        "unbounded": (np.exp(30 * normal), labels),
        "negative": (-np.exp(5 * normal) - 1e6, labels),
        "tied": (np.round(normal), labels),
        "binary": ((normal > 0).astype(float), labels),
        "constant": (np.full(400, 3.25), labels),
        "reversed": (-normal, labels),
        "separated": (normal + 100 * labels, labels),
        "differences below float32": (1e8 + 1e-3 * normal, labels),
        "tiny": (1e-300 * np.exp(normal), labels),
        "few anomalous": (normal, (np.arange(400) < 3).astype(int)),
        "one each": (np.array([2.0, -1.0]), np.array([0, 1])),
        "prefix of 19 in 20": (np.arange(40.0), np.tile([0, 1], 20)),
    }


SETS = _sets()
each_set = pytest.mark.parametrize(("scores", "labels"), SETS.values(), ids=SETS.keys())


@each_set
def test_areas_equal_scikit_learn(scores, labels):
    ours = detection_metrics(scores, labels)
    assert set(ours) == KEYS
    assert all(type(value) is float for value in ours.values())
    # Both are sums of a few hundred float64 terms: equal up to their rounding.
    assert ours["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert ours["aupr_out"] == pytest.approx(sklearn_metrics.average_precision_score(labels, scores), abs=1e-12)
    assert ours["aupr_in"] == pytest.approx(sklearn_metrics.average_precision_score(1 - labels, -scores), abs=1e-12)


@each_set
def test_thresholded_metrics_equal_a_loop_over_all_thresholds(scores, labels):
    ours = detection_metrics(scores, labels)
    assert ours["fpr95_out"] == pytest.approx(_slow_fpr95(scores, labels), abs=1e-15)
    assert ours["fpr95_in"] == pytest.approx(_slow_fpr95(-scores, 1 - labels), abs=1e-15)
    assert ours["detection_accuracy"] == pytest.approx(_slow_detection_accuracy(scores, labels), abs=1e-15)


def test_auroc_equals_the_count_over_all_pairs():
    scores, labels = SETS["tied"]
    difference = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    assert auroc(scores, labels) == np.mean((difference > 0) + 0.5 * (difference == 0))


@each_set
def test_single_metrics_are_those_of_the_table(scores, labels):
    table = detection_metrics(scores, labels)
    assert auroc(scores, labels) == table["auroc"]
    assert detection_accuracy(scores, labels) == table["detection_accuracy"]


@pytest.mark.parametrize(
    "monotone",
    [lambda s: 2 * s + 1, np.exp, np.arctan, lambda s: s**3, lambda s: 1e12 * s, lambda s: np.argsort(np.argsort(s))],
    ids=["affine", "exp", "arctan", "cube", "scaled", "ranks"],
)
def test_monotone_maps_change_nothing(monotone):
    scores = np.random.default_rng(1).standard_normal(500)  # without ties: ranks keep all that matters
    labels = np.random.default_rng(2).integers(0, 2, 500)
    assert detection_metrics(monotone(scores), labels) == detection_metrics(scores, labels)


@each_set
def test_order_changes_nothing(scores, labels):
    order = np.random.default_rng(3).permutation(len(scores))
    assert detection_metrics(scores[order], labels[order]) == detection_metrics(scores, labels)


@each_set
def test_negating_scores_and_exchanging_classes_exchanges_in_and_out(scores, labels):
    ours, mirrored = detection_metrics(scores, labels), detection_metrics(-scores, 1 - labels)
    assert mirrored["aupr_in"] == ours["aupr_out"]
    assert mirrored["fpr95_in"] == ours["fpr95_out"]
    assert mirrored["auroc"] == pytest.approx(ours["auroc"], abs=1e-15)


def test_constant_scores_are_chance():
    ours = detection_metrics(np.full(10, -7.0), [0] * 8 + [1] * 2)
    assert ours == {
        "auroc": 0.5,
        "aupr_out": 0.2,
        "aupr_in": 0.8,
        "fpr95_out": 1.0,
        "fpr95_in": 1.0,
        "detection_accuracy": 0.5,
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, bool])
def test_other_dtypes_are_taken_at_their_value(dtype):
    scores, labels = np.array([0, 1, 1, 0], dtype=dtype), np.array([0, 1, 0, 0])
    assert detection_metrics(scores, labels) == detection_metrics(scores.astype(float), labels.astype(bool))


@each_set
def test_roc_curve_equals_scikit_learn(scores, labels):
    for ours, theirs in zip(
        roc_curve(scores, labels), sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)


@each_set
def test_precision_recall_curve_equals_scikit_learn(scores, labels):
    for ours, theirs in zip(
        precision_recall_curve(scores, labels), sklearn_metrics.precision_recall_curve(labels, scores), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)


def _thresholds(scores):
    return [-np.inf, *np.unique(scores)]  # anomalous iff score > threshold: all of them, …, none of them


def _slow_rates(scores, labels, threshold):
    called = scores > threshold
    return called[labels == 1].mean(), called[labels == 0].mean()


def _slow_fpr95(scores, labels):
    rates = [_slow_rates(scores, labels, threshold) for threshold in _thresholds(scores)]
    return min(fpr for tpr, fpr in rates if tpr >= 0.95)


def _slow_detection_accuracy(scores, labels):
    rates = [_slow_rates(scores, labels, threshold) for threshold in _thresholds(scores)]
    return max((tpr + 1 - fpr) / 2 for tpr, fpr in rates)
