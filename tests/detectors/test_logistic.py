"""Logistic regression as scikit-learn's LogisticRegressionCV has it, and the audit that stands on it."""

import re
import warnings

import numpy as np
import pytest
from made_up_features import feature_records, rebuilt
from sklearn.linear_model import LogisticRegressionCV

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import ImageStatistics
from lightning_gradood.detectors.logistic import fit_logistic


def made(n=300, gap=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return rng.normal(size=(n, 4)) * [1, 10, 0.1, 1] + gap * labels[:, None] * [1, 5, 0, 0], labels


@pytest.mark.parametrize("gap", [0.0, 0.5, 3.0])
def test_it_is_scikit_learn_s_cross_validated_regression(gap):
    values, labels = made(gap=gap)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # releases announce other defaults, not other numbers
        theirs = LogisticRegressionCV(cv=5, max_iter=1000).fit(standard, labels)
    scores = fit_logistic(values, labels).score(values)
    np.testing.assert_allclose(scores, theirs.decision_function(standard), rtol=2e-2, atol=2e-2)


def test_columns_that_do_not_vary_are_left_alone():
    values, labels = made()
    with_constant = np.concatenate([values, np.full((len(values), 1), 7.0)], axis=1)
    found, expected = fit_logistic(with_constant, labels), fit_logistic(values, labels)
    assert found.scale[-1] == 1
    np.testing.assert_allclose(found.score(with_constant), expected.score(values), rtol=1e-3, atol=1e-3)


def test_too_few_of_a_kind_are_refused_with_their_numbers():
    values, labels = made()
    words = "least 5 normal and 5 anomalous records for a logistic regression. Got 20 normal and 4 anomalous. Give more"
    rows = [*np.flatnonzero(labels == 0)[:20], *np.flatnonzero(labels == 1)[:4]]
    with pytest.raises(Refusal, match=re.escape(words)):
        fit_logistic(values[rows], labels[rows])


@pytest.mark.parametrize("column", range(4))
def test_the_audit_finds_a_source_that_differs_in_one_statistic_alone(column):
    table = feature_records(gap=0.0)
    statistics = table.probe("image_statistics").copy()
    statistics[:, column] += 0.5 * table.anomalous
    detector = ImageStatistics()
    detector.fit(rebuilt(table, {"image_statistics": statistics}), seed=0)
    table = rebuilt(table, {"image_statistics": statistics}).where(split="test")
    scores = detector.score(table)
    assert (scores[table.anomalous == 1][:, None] > scores[table.anomalous == 0]).mean() > 0.9


def test_flat_images_have_a_finite_score():
    table = feature_records()
    flat = rebuilt(table, {"image_statistics": np.tile([0.5, 0, 0, 0], (len(table), 1))})
    detector = ImageStatistics()
    detector.fit(table, seed=0)
    assert np.isfinite(detector.score(flat)).all()
