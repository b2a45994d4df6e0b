"""The protocol: fit on `train`, threshold from `val`, `test` looked at once; every number as scikit-learn has it."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from made_up_records import PROBE, records, with_values
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from lightning_gradood.detectors import MLP, Detector
from lightning_gradood.evaluation import evaluate
from lightning_gradood.gradients import AllOnes
from lightning_gradood.metrics import auroc_interval
from lightning_gradood.probes import GradientProbe
from lightning_gradood.records import Records
from lightning_gradood.tasks import MLPSettings


class FirstNorm(Detector):
    """Score by the first norm's logarithm, which needs no fit; note what it is asked."""

    def __init__(self):
        self.seeds, self.scored = [], []

    @property
    def name(self):
        return "first_norm"

    @property
    def probes(self):
        return [GradientProbe(AllOnes())]

    def fit(self, records, seed):
        self.seeds.append(seed)
        return [{"epoch": 0, "val/loss": 1.0}]

    def score(self, records):
        self.scored.append(set(records.column("split")))
        return np.log(records.probe(PROBE)[:, 0]) + 18.5

    def state_dict(self):
        return {"nothing": torch.zeros(1)}

    def load_state_dict(self, state):
        pass


class Odds(FirstNorm):
    """The same with scores that are logits."""

    scores_are_logits = True


@pytest.fixture
def table():
    """Return records of which some are confused, more normal than anomalous ones."""
    both = records({"train": 10, "val": 50, "test": 40}, gap=1.5)
    ids = [name for name in both.ids if name.startswith("normal") or int(name[-4:]) % 3]
    return Records(both.table.filter(np.isin(both.ids, ids)))


def outcome_of(table, detector=None, **settings):
    """Evaluate with settings that suit a test."""
    return evaluate(detector or FirstNorm(), table, **({"source": "smoke", "seed": 0, "resamples": 30} | settings))


def test_counts_scores_and_ids_are_those_of_the_splits(table):
    outcome = outcome_of(table)
    assert (outcome.source, outcome.detector) == ("smoke", "first_norm")
    assert outcome.counts["test"] == {
        "normal": 40,
        "anomalous": sum(name.startswith("smoke") for name in table.where(split="test").ids),
    }
    assert set(outcome.counts) == {"train", "val", "test"}
    assert set(outcome.scores) == {"val", "test"}
    for split, part in outcome.scores.items():
        assert part.ids == table.where(split=split).ids
        assert part.labels.tolist() == [int(name.startswith("smoke")) for name in part.ids]
        assert part.scores.dtype == np.float64
    assert outcome.curves == [{"epoch": 0, "val/loss": 1.0}]
    assert outcome.seconds > 0


@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_are_scikit_learn_s_of_the_scores(table, split):
    outcome = outcome_of(table, Odds())
    part, metrics = outcome.scores[split], outcome.metrics[split]
    assert metrics["auroc"] == pytest.approx(roc_auc_score(part.labels, part.scores), abs=1e-12)
    assert metrics["aupr_out"] == pytest.approx(average_precision_score(part.labels, part.scores), abs=1e-12)
    assert metrics["aupr_in"] == pytest.approx(average_precision_score(1 - part.labels, -part.scores), abs=1e-12)
    assert metrics["prevalence"] == pytest.approx(part.labels.mean())
    for name, threshold in (("val_threshold", outcome.threshold), ("0.5", 0.0)):
        called = part.scores > threshold
        assert metrics[f"accuracy_at_{name}"] == pytest.approx(accuracy_score(part.labels, called))
        assert metrics[f"accuracy_at_{name}_balanced"] == pytest.approx(balanced_accuracy_score(part.labels, called))
    assert metrics["accuracy_at_0.5"] != metrics["accuracy_at_val_threshold"]


def test_probability_one_half_is_only_reported_where_scores_are_odds(table):
    assert "accuracy_at_0.5" not in outcome_of(table).metrics["test"]


def test_the_threshold_is_the_best_on_val_whatever_test_holds(table):
    outcome = outcome_of(table)
    val = outcome.scores["val"]
    best = max(balanced_accuracy_score(val.labels, val.scores > cut) for cut in [-np.inf, *val.scores])
    assert outcome.metrics["val"]["accuracy_at_val_threshold_balanced"] == pytest.approx(best)
    changed = outcome_of(with_values(table, "test", np.ones((1, 3))))
    assert changed.threshold == outcome.threshold
    assert changed.metrics["val"] == outcome.metrics["val"]
    assert changed.metrics["test"] != outcome.metrics["test"]


def test_val_and_test_are_scored_once_each_and_train_never(table):
    detector = FirstNorm()
    outcome_of(table, detector)
    assert [split for split, _ in itertools.groupby(detector.scored)] == [{"val"}, {"test"}]  # each in blocks


def test_the_seed_comes_from_the_seed_and_the_source(table):
    detector = FirstNorm()
    for seed, source in ((0, "smoke"), (0, "smoke"), (1, "smoke"), (0, "fog")):
        outcome_of(table, detector, seed=seed, source=source)
    same, again, other_seed, other_source = detector.seeds
    assert same == again
    assert len({same, other_seed, other_source}) == 3
    assert min(detector.seeds) >= 0
    assert max(detector.seeds) < 2**32


def test_the_interval_is_that_of_the_test_images(table):
    detector = FirstNorm()
    outcome = outcome_of(table, detector)
    test = outcome.scores["test"]
    seed = detector.seeds[0]
    assert outcome.auroc_interval == auroc_interval(test.scores, test.labels, test.ids, resamples=30, seed=seed)
    assert outcome.auroc_interval[0] < outcome.metrics["test"]["auroc"] < outcome.auroc_interval[1]


def test_the_same_call_gives_the_same_outcome(table):
    settings = MLPSettings(width=8, max_epochs=3)
    first, second = (outcome_of(table, MLP([AllOnes()], settings)) for _ in range(2))
    for field in ("counts", "metrics", "auroc_interval", "threshold", "curves"):
        assert getattr(first, field) == getattr(second, field)
    assert np.array_equal(first.scores["test"].scores, second.scores["test"].scores)


def test_an_outcome_does_not_change(table):
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome_of(table).threshold = 0.0
