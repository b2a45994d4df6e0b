"""scikit-learn and loops over all thresholds are the judges of every number; what has no number is refused with counts."""

from functools import partial

import numpy as np
import pytest
from asserts import assert_refused
from sklearn import metrics as judge

from lightning_gradood import metrics
from lightning_gradood.metrics import accuracy_at, auroc, best_balanced_threshold, detection_metrics

LARGEST, SMALLEST = np.finfo(np.float64).max, 5e-324
NAN, INF = float("nan"), float("inf")
GENERATOR = np.random.default_rng(0)
LABELS = np.array([0, 1, *GENERATOR.integers(0, 2, 398)])
NORMAL = GENERATOR.standard_normal(400) + 0.7 * LABELS
SETS = {
    "unbounded": (np.exp(30 * NORMAL), LABELS),
    "tied": (np.round(NORMAL), LABELS),
    "constant": (np.full(400, 3.25), LABELS),
    "separated": (NORMAL + 100 * LABELS, LABELS),
    "differences below float32": (1e8 + 1e-3 * NORMAL, LABELS),
    "few anomalous": (NORMAL, (np.arange(400) < 3).astype(int)),
    "prefix of 19 in 20": (np.arange(40.0), np.tile([0, 1], 20)),
}


def rates(scores, labels):
    """TPR and FPR of calling all images above a threshold anomalous, for all thresholds: all of them, …, none of them."""
    called = [scores > threshold for threshold in [-np.inf, *np.unique(scores)]]
    return [(one[labels == 1].mean(), one[labels == 0].mean()) for one in called]


@pytest.mark.parametrize("name", SETS)
def test_every_number_is_scikit_learns_or_that_of_a_loop_over_thresholds(name):
    scores, labels = SETS[name]
    ours = detection_metrics(scores, labels)
    assert ours == {
        "auroc": pytest.approx(judge.roc_auc_score(labels, scores), abs=1e-12),
        "aupr_out": pytest.approx(judge.average_precision_score(labels, scores), abs=1e-12),
        "aupr_in": pytest.approx(judge.average_precision_score(1 - labels, -scores), abs=1e-12),
        "fpr95_out": pytest.approx(min(fpr for tpr, fpr in rates(scores, labels) if tpr >= 0.95), abs=1e-15),
        "fpr95_in": pytest.approx(min(fpr for tpr, fpr in rates(-scores, 1 - labels) if tpr >= 0.95), abs=1e-15),
        "detection_accuracy": pytest.approx(max((tpr + 1 - fpr) / 2 for tpr, fpr in rates(scores, labels)), abs=1e-15),
    }
    assert auroc(scores, labels) == ours["auroc"]
    order = np.random.default_rng(3).permutation(len(scores))
    assert detection_metrics(scores[order], labels[order]) == ours


def test_the_best_threshold_is_the_smallest_best_midpoint_and_reaches_the_oracle():
    for digits in (0, 1, 12):
        for seed in range(10):
            generator = np.random.default_rng(seed)
            labels = np.array([0, 1, *generator.integers(0, 2, 58)])
            scores = np.round(generator.standard_normal(60) + labels, digits)
            values = np.unique(scores)
            midpoints = (values[1:] + values[:-1]) / 2
            found = np.array([judge.balanced_accuracy_score(labels, scores > midpoint) for midpoint in midpoints])
            best = best_balanced_threshold(scores, labels)
            assert best == pytest.approx(midpoints[np.flatnonzero(found >= found.max() - 1e-12)[0]], rel=1e-15)
            oracle = detection_metrics(scores, labels)["detection_accuracy"]
            for threshold, balanced in ((best, oracle), (-10.0, 0.5), (np.inf, 0.5)):
                plain = judge.accuracy_score(labels, scores > threshold)
                assert accuracy_at(scores, labels, threshold) == pytest.approx({"plain": plain, "balanced": balanced})
    assert accuracy_at([1.0, 1.0, 2.0], [0, 1, 1], threshold=1.0) == {"plain": 2 / 3, "balanced": 0.75}  # at it: normal
    assert best_balanced_threshold([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1]) == 0.5  # 2.5 is as good


def test_the_best_threshold_is_finite_and_separates_at_the_ends_of_float64():
    for scores in ([9.0, 5.0], [-1e300, -1e300]):  # no threshold is useful: all are called anomalous
        assert -np.inf < best_balanced_threshold(scores, [0, 1]) < min(scores)
    assert best_balanced_threshold([0.9 * LARGEST, LARGEST], [0, 1]) == pytest.approx(0.95 * LARGEST)
    assert best_balanced_threshold([-LARGEST, LARGEST], [0, 1]) == 0.0
    for low in (1.0, -1.0, 0.0, SMALLEST, 3 * SMALLEST, 1e300):
        neighbours = [low, np.nextafter(low, np.inf)]
        assert accuracy_at(neighbours, [0, 1], best_balanced_threshold(neighbours, [0, 1]))["plain"] == 1.0


METRICS = [
    auroc, best_balanced_threshold, detection_metrics,
    lambda scores, labels: accuracy_at(scores, labels, 0.0),
    lambda scores, labels: metrics.auroc_interval(scores, labels, list(range(len(scores)))),
]  # fmt: skip
REFUSED = [
    ([NAN, 1.0, NAN, INF, -INF], [0, 1, 0, 1, 1], "finite. Got 4 NaN or infinite ones among 5 scores. Look for"),
    ([1.0, 2.0], [0, 0], "and both occur. Got 2 normal and 0 anomalous images of 2. Give images of both"),
    ([], [], "one value for each of at least two images. Got shapes (0,) and (0,). Give"),
    ([1.0, 2.0, 3.0], [0, 1], "one-dimensional, one value .* Got shapes (3,) and (2,). Give"),
    ([1.0, 2.0, 3.0], [0, 1, 2], "0 (normal) or 1 .* Got 1 normal and 1 anomalous images of 3."),
    ([1.0, 2.0], [NAN, 1], "Got 0 normal and 1 anomalous images of 2."),
    ([[1.0], [2.0]], [0, 1], "one-dimensional.* Got shapes (2, 1) and (2,)"),
]


def test_what_has_no_number_is_refused_with_counts():
    assert_refused(*((partial(metric, *given), words) for metric in METRICS for *given, words in REFUSED))
