"""Accuracies at a threshold, against scikit-learn, and the best threshold, against a loop over all of them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import accuracy_at, best_balanced_threshold, detection_accuracy

LARGEST = np.finfo(np.float64).max
SMALLEST = 5e-324


def _set(seed, digits):
    generator = np.random.default_rng(seed)
    labels = np.array([0, 1, *generator.integers(0, 2, 58)])
    return np.round(generator.standard_normal(60) + labels, digits), labels


@pytest.mark.parametrize("threshold", [-10.0, 0.0, 0.3, 1.0, 10.0, np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_accuracies_equal_scikit_learn(seed, threshold):
    scores, labels = _set(seed, digits=1)
    ours = accuracy_at(scores, labels, threshold)
    assert ours["plain"] == pytest.approx(accuracy_score(labels, scores > threshold))
    assert ours["balanced"] == pytest.approx(balanced_accuracy_score(labels, scores > threshold))


def test_a_score_at_the_threshold_is_normal():
    assert accuracy_at([1.0, 1.0, 2.0], [0, 1, 1], threshold=1.0) == {"plain": 2 / 3, "balanced": 0.75}


@pytest.mark.parametrize("digits", [0, 1, 12])
@pytest.mark.parametrize("seed", range(10))
def test_best_threshold_is_the_smallest_best_midpoint(seed, digits):
    scores, labels = _set(seed, digits)
    values = np.unique(scores)
    midpoints = (values[1:] + values[:-1]) / 2
    accuracies = [balanced_accuracy_score(labels, scores > midpoint) for midpoint in midpoints]
    best = midpoints[np.flatnonzero(np.array(accuracies) >= max(accuracies) - 1e-12)[0]]
    assert best_balanced_threshold(scores, labels) == pytest.approx(best, rel=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_reaches_the_oracle(seed):
    scores, labels = _set(seed, digits=1)
    threshold = best_balanced_threshold(scores, labels)
    assert accuracy_at(scores, labels, threshold)["balanced"] == pytest.approx(detection_accuracy(scores, labels))


def test_ties_go_to_the_smallest_threshold():
    # Both 0.5 and 2.5 give (1/2 + 1)/2 and (1 + 1/2)/2.
    assert best_balanced_threshold([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1]) == 0.5


@pytest.mark.parametrize(("scores", "labels"), [([5.0, 5.0], [0, 1]), ([9.0, 5.0], [0, 1]), ([-1e300, -1e300], [0, 1])])
def test_without_a_useful_threshold_all_are_called_anomalous_at_a_finite_one(scores, labels):
    threshold = best_balanced_threshold(scores, labels)
    assert np.isfinite(threshold)
    assert threshold < min(scores)
    assert accuracy_at(scores, labels, threshold)["balanced"] == 0.5


def test_threshold_stays_finite_at_the_ends_of_float64():
    assert best_balanced_threshold([-LARGEST, -LARGEST], [0, 1]) == -LARGEST
    assert best_balanced_threshold([0.9 * LARGEST, LARGEST], [0, 1]) == pytest.approx(0.95 * LARGEST)
    assert best_balanced_threshold([-LARGEST, LARGEST], [0, 1]) == 0.0


@pytest.mark.parametrize("low", [1.0, np.nextafter(1.0, 2), -1.0, 0.0, SMALLEST, 3 * SMALLEST, 1e300])
def test_neighbouring_floats_are_still_separated(low):
    scores = [low, np.nextafter(low, np.inf)]
    assert accuracy_at(scores, [0, 1], best_balanced_threshold(scores, [0, 1]))["plain"] == 1.0


def test_nan_threshold_is_refused():
    with pytest.raises(Refusal, match=r"`threshold` should be a number\. Got `threshold = nan`\."):
        accuracy_at([0.0, 1.0], [0, 1], float("nan"))
