"""What holds for each of the field's other methods: nothing of `test` is learnt, each image stands for itself."""

import time

import numpy as np
import pytest
import torch
from made_up_features import feature_records, rebuilt
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from lightning_gradood.detectors import KNN, LID, Baseline, Energy, GradNorm, ImageStatistics, NotFittedError
from lightning_gradood.evaluation import evaluate
from lightning_gradood.records import Records

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


@EVERY
def test_scores_are_raw_and_depend_on_their_own_record_alone(detector):
    table = feature_records()
    _, scores = fitted(detector, table)
    assert (scores.dtype, scores.shape) == (np.float64, (len(table),))
    assert np.isfinite(scores).all()
    for row in (0, 70, 200):
        alone = detector.score(Records(table.table.slice(row, 1)))
        np.testing.assert_allclose(alone, scores[[row]], rtol=1e-9)


@EVERY
def test_what_was_learnt_survives_safetensors(detector, tmp_path):
    state, _ = fitted(detector, feature_records())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "detector.safetensors")
    assert same(state, load_file(tmp_path / "detector.safetensors"))


@EVERY
def test_random_numbers_of_the_caller_neither_matter_nor_change(detector):
    table = feature_records()
    np.random.seed(5), torch.manual_seed(5)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    state, scores = fitted(detector, table)
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(6)
    again, same_scores = fitted(detector, table)
    assert same(state, again)
    assert np.array_equal(scores, same_scores)


@pytest.mark.parametrize("detector", [KNN(), LID(), ImageStatistics()], ids=lambda detector: detector.name)
def test_asking_before_fitting_is_a_mistake_with_a_name(detector):
    for ask in (lambda: detector.score(feature_records()), detector.state_dict):
        with pytest.raises(NotFittedError, match="should be fitted before it scores or is saved"):
            ask()


@pytest.mark.parametrize(
    "detector", [*DETECTORS[:3], KNN(), LID(), ImageStatistics()], ids=lambda detector: detector.name
)
def test_twenty_thousand_records_take_seconds(detector):
    table = feature_records(counts={"train": 4000, "val": 4000, "test": 2000}, width=64)
    start = time.process_time()
    fitted(detector, table)
    assert time.process_time() - start < 30
