"""What holds for each of the field's other methods: nothing of `test` is learnt, each image stands for itself."""

import numpy as np
import pytest
import torch
from made_up_features import feature_records, rebuilt
from sklearn.metrics import roc_auc_score

from lightning_gradood.detectors import KNN, LID, Baseline, Energy, GradNorm, ImageStatistics
from lightning_gradood.evaluation import evaluate

DETECTORS = [Baseline(), Energy(), GradNorm(), KNN(k=5), LID(neighbours=[5, 20]), ImageStatistics()]
LEARNING = DETECTORS[3:]
EVERY = pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
LABEL_FREE = pytest.mark.parametrize(
    "detector", [detector for detector in DETECTORS if not detector.needs_anomalies], ids=lambda detector: detector.name
)
EVERY_LEARNING = pytest.mark.parametrize("detector", LEARNING, ids=lambda detector: detector.name)


def fitted(detector, table, seed=0):
    """Fit and return what was learnt and the scores of all records."""
    assert detector.fit(table, seed) == []
    return detector.state_dict(), detector.score(table)


def same(first, second):
    assert set(first) == set(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def changed(table, split, rng):
    """Other values of every probe in one split."""
    rows = table.column("split") == split
    values = {}
    for probe in table.probes:
        values[probe] = table.probe(probe).copy()
        values[probe][rows] = np.abs(rng.normal(size=values[probe][rows].shape))
    return rebuilt(table, values)


def relabelled(table, split, rng):
    """Other labels in one split."""
    rows, sources = table.column("split") == split, table.column("source").astype(object)
    sources[rows] = rng.permutation(sources[rows])
    assert (sources != table.column("source")).any()
    return rebuilt(table, sources=sources)


@EVERY
@pytest.mark.parametrize("change", [changed, relabelled])
def test_nothing_of_test_is_learnt(detector, change):
    table = feature_records().by_id()
    state, _ = fitted(detector, table)
    other = change(table, "test", np.random.default_rng(5))
    again, scores = fitted(detector, other)
    assert same(state, again)
    if change is relabelled:
        assert np.array_equal(scores, detector.score(table))


@EVERY_LEARNING
def test_other_values_or_labels_of_train_are_learnt(detector):
    table = feature_records().by_id()
    state, _ = fitted(detector, table)
    assert not same(state, fitted(detector, changed(table, "train", np.random.default_rng(5)))[0])
    assert not same(state, fitted(detector, relabelled(table, "train", np.random.default_rng(5)))[0])


@LABEL_FREE
def test_without_anomalous_images_the_same_is_learnt(detector):
    table = feature_records()
    state, _ = fitted(detector, table)
    assert same(state, fitted(detector, table.where(source="normal", split="train"))[0])


@EVERY
def test_what_can_be_told_apart_is_told_apart_with_anomalous_high(detector):
    table = feature_records(gap=3.0)
    table = rebuilt(table, {"logits": table.probe("logits") * np.where(table.anomalous, -0.3, 3)[:, None]})
    outcome = evaluate(detector, table, source="smoke", seed=0, resamples=20)
    assert outcome.detector == detector.name
    assert outcome.metrics["test"]["auroc"] > 0.8
    assert ("accuracy_at_0.5" in outcome.metrics["test"]) == detector.scores_are_logits
    assert roc_auc_score(outcome.scores["test"].labels, outcome.scores["test"].scores) > 0.8
