"""Fit on `train`, threshold from `val`, `test` looked at once, every number as scikit-learn has it; and who may know what."""

import itertools
import re

import numpy as np
import pytest
import torch
from made_up_records import PROBE, changed, records
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from lightning_gradood.core import Refusal, named_seed
from lightning_gradood.detectors import MLP, Detector, GradientKNN
from lightning_gradood.evaluation import DetectionDatasets, evaluate, run_trial, trials_of
from lightning_gradood.evaluation.protocol import gather_outcomes, refuse_single, trials_of_process
from lightning_gradood.gradients import AllOnes
from lightning_gradood.metrics import auroc_interval, conventional_metrics
from lightning_gradood.probes import GradientProbe
from lightning_gradood.records import SPLITS, Records
from lightning_gradood.tasks import MLPSettings

SOURCES = ["smoke", "fog", "rain"]
PROTOCOLS = ("known", "leave_one_out", "cross")


class Spy(Detector):
    """Score by the first norm, which needs no fit; note the seed and the ids it is shown."""

    probes = (GradientProbe(AllOnes()),)
    needs_anomalies = True

    def __init__(self, needs_anomalies=True, scores_are_logits=False):
        self.needs_anomalies, self.logits = needs_anomalies, scores_are_logits
        self.fitted_on, self.scored, self.seed = [], [], None

    @property
    def name(self):
        return "spy" if self.needs_anomalies else "free"

    @property
    def scores_are_logits(self):
        return self.logits

    def fit(self, records, seed):
        self.fitted_on, self.seed = records.ids, seed
        return [{"epoch": 0, "val/loss": 1.0}]

    def score(self, records):
        self.scored.append(records.ids)
        return np.log(records.probe(PROBE)[:, 0]) + 18.5

    def state_dict(self):
        return {"nothing": torch.zeros(1)}

    def load_state_dict(self, state):
        pass


@pytest.fixture
def table():
    """Return records of which some are confused, more normal than anomalous ones."""
    both = records({"train": 10, "val": 50, "test": 40}, gap=1.5)
    ids = [name for name in both.ids if name.startswith("normal") or int(name[-4:]) % 3]
    return Records(both.table.filter(np.isin(both.ids, ids)))


def outcome_of(table, detector=None, **settings):
    """Evaluate with settings that suit a test."""
    return evaluate(detector or Spy(), table, **({"source": "smoke", "seed": 0, "resamples": 30} | settings))


def test_every_number_is_scikit_learn_s_of_the_scores_of_each_split(table):
    detector = Spy(scores_are_logits=True)
    outcome = outcome_of(table, detector)
    assert (outcome.source, outcome.detector, outcome.trained_on) == ("smoke", "spy", "smoke")
    assert (list(outcome.counts), list(outcome.scores)) == ([*SPLITS], ["val", "test"])
    assert outcome.curves == [{"epoch": 0, "val/loss": 1.0}]
    assert outcome.seconds > 0
    for split, part in outcome.scores.items():
        assert part.ids == table.where(split=split).ids
        assert part.labels.tolist() == [int(name.startswith("smoke")) for name in part.ids]
        assert outcome.counts[split] == {"normal": sum(part.labels == 0), "anomalous": sum(part.labels)}
        metrics = outcome.metrics[split]
        assert metrics["auroc"] == pytest.approx(roc_auc_score(part.labels, part.scores), abs=1e-12)
        assert metrics["aupr_out"] == pytest.approx(average_precision_score(part.labels, part.scores), abs=1e-12)
        assert metrics["aupr_in"] == pytest.approx(average_precision_score(1 - part.labels, -part.scores), abs=1e-12)
        assert metrics["prevalence"] == pytest.approx(part.labels.mean())
        for name, threshold in (("val_threshold", outcome.threshold), ("0.5", 0.0)):
            called = part.scores > threshold
            assert metrics[f"accuracy_at_{name}"] == pytest.approx(accuracy_score(part.labels, called))
            expected = balanced_accuracy_score(part.labels, called)
            assert metrics[f"accuracy_at_{name}_balanced"] == pytest.approx(expected)
        assert metrics["accuracy_at_0.5"] != metrics["accuracy_at_val_threshold"]
    assert "accuracy_at_0.5" not in outcome_of(table).metrics["test"]  # only where scores are odds
    test = outcome.scores["test"]
    interval = auroc_interval(test.scores, test.labels, test.ids, resamples=30, seed=detector.seed)
    assert outcome.auroc_interval == interval
    assert interval[0] < outcome.metrics["test"]["auroc"] < interval[1]


def test_the_threshold_is_the_best_on_val_and_test_is_looked_at_once(table):
    detector = Spy()
    outcome, val = outcome_of(table, detector), table.where(split="val")
    scores = Spy().score(val)
    best = max(balanced_accuracy_score(val.anomalous, scores > cut) for cut in [-np.inf, *scores])
    assert outcome.metrics["val"]["accuracy_at_val_threshold_balanced"] == pytest.approx(best)
    split_of = dict(zip(table.ids, table.column("split"), strict=True))
    seen = [{split_of[name] for name in ids} for ids in detector.scored]
    assert [splits for splits, _ in itertools.groupby(seen)] == [{"val"}, {"test"}]  # each in blocks, `train` never
    other = outcome_of(changed(table, table.column("split") == "test", {PROBE: 1.0}))
    assert (other.threshold, other.metrics["val"]) == (outcome.threshold, outcome.metrics["val"])
    assert other.metrics["test"] != outcome.metrics["test"]


def test_seed_and_source_fix_everything(table):
    seeds = []
    for seed, source in ((0, "smoke"), (0, "smoke"), (1, "smoke"), (0, "fog")):
        detector = Spy()
        outcome_of(table, detector, seed=seed, source=source)
        seeds.append(detector.seed)
    assert seeds[0] == seeds[1] == named_seed(0, "smoke", bits=32)
    assert len(set(seeds)) == 3
    settings = MLPSettings(width=8, max_epochs=3)
    first, second = (outcome_of(table, MLP([AllOnes()], settings)) for _ in range(2))
    for field in ("counts", "metrics", "auroc_interval", "threshold", "curves"):
        assert getattr(first, field) == getattr(second, field), field
    assert np.array_equal(first.scores["test"].scores, second.scores["test"].scores)


@pytest.fixture
def datasets():
    """Records of the normal source and three anomalous ones, each as far off as its place."""
    rng, found = np.random.default_rng(0), {}
    for place, source in enumerate(["normal", *SOURCES]):
        ids = [f"{source}/{row:03d}" for row in range(50)]
        values = np.exp(rng.normal(place, 1, size=(50, 3)))
        splits = {name: SPLITS[row % 5 // 2] for row, name in enumerate(ids)}
        found[source] = Records.build(ids, source=source, values={PROBE: values}).with_splits(splits)
    return DetectionDatasets(found, noise_of=lambda source: None, keep_of=lambda source: "all")


def shown(ids):
    """The sources of some ids, and their splits: `datasets` puts two of five images into `train`, two into `val`."""
    pairs = [name.split("/") for name in ids]
    return {source for source, _ in pairs}, {SPLITS[int(row) % 5 // 2] for _, row in pairs}


def test_each_protocol_trains_and_tests_where_it_says():
    expected = {
        "known": [(one, [one], [one]) for one in SOURCES],
        "leave_one_out": [("others", [o for o in SOURCES if o != one], [one]) for one in SOURCES],
        "cross": [(one, [one], SOURCES) for one in SOURCES],
    }
    for protocol in PROTOCOLS:
        trials = trials_of([Spy()], SOURCES, protocol)
        found = [(trial.name, list(trial.trained_on), list(trial.tested_on)) for trial in trials]
        assert found == expected[protocol], protocol
        assert [trial.owner for trial in trials] == SOURCES
        free = trials_of([Spy(needs_anomalies=False)], SOURCES, protocol)
        assert [trial.tested_on for trial in free] == [(source,) for source in SOURCES]
    for protocol in ("leave_one_out", "cross"):
        words = (
            f"`detection.protocol = {protocol}` should have at least two anomaly sources. Got ['smoke']. Add another"
        )
        with pytest.raises(Refusal, match=re.escape(words)):
            refuse_single(["smoke"], protocol)
        refuse_single(["smoke", "fog"], protocol)
    refuse_single(["smoke"], "known")


def test_under_leave_one_out_nothing_of_the_tested_source_is_seen_before_test(datasets):
    for trial in trials_of([Spy()], SOURCES, "leave_one_out"):
        detector, (outcome,) = run_trial(trial, datasets, seed=0, resamples=10)
        others = {"normal", *SOURCES} - {outcome.source}
        assert shown(detector.fitted_on) == (others, {"train", "val"})
        assert len(set(detector.fitted_on)) == len(detector.fitted_on) == 3 * 40
        blocks = itertools.groupby(detector.scored, key=lambda ids: shown(ids)[1])
        val, test = ([name for ids in group for name in ids] for _, group in blocks)
        assert shown(val) == (others, {"val"})
        assert shown(test) == ({"normal", outcome.source}, {"test"})
        assert list(outcome.counts.values()) == [
            {"normal": 20, "anomalous": 40}, {"normal": 20, "anomalous": 40}, {"normal": 10, "anomalous": 10},
        ]  # fmt: skip
        assert (outcome.trained_on, outcome.label, outcome.transferred) == ("others", "spy", False)


def test_a_matrix_fits_once_tests_everywhere_with_one_threshold_and_has_known_on_its_diagonal(datasets):
    for trial in trials_of([Spy()], SOURCES, "cross"):
        detector, outcomes = run_trial(trial, datasets, seed=7, resamples=10)
        assert shown(detector.fitted_on)[0] == {"normal", trial.owner}
        assert detector.seed == named_seed(7, trial.owner, bits=32)
        assert trial.detector.seed is None  # a copy was fitted
        assert [outcome.source for outcome in outcomes] == SOURCES
        assert len({outcome.threshold for outcome in outcomes}) == 1
        for outcome in outcomes:
            own = outcome.source == trial.owner
            assert outcome.label == ("spy" if own else f"spy@{trial.owner}")
            assert (outcome.trained_on, outcome.transferred) == (trial.owner, not own)
            test = datasets.of(outcome.source).where(split="test")
            expected = roc_auc_score(test.anomalous, detector.score(test))
            assert outcome.metrics["test"]["auroc"] == pytest.approx(expected)
            known = evaluate(Spy(), datasets.of(outcome.source), source=outcome.source, seed=7, resamples=10)
            same = (outcome.metrics, outcome.auroc_interval) == (known.metrics, known.auroc_interval)
            assert same == own


def test_a_one_class_detector_sees_normal_records_alone_and_is_fitted_once_for_all_sources(datasets):
    for protocol in PROTOCOLS:
        before, fits = {}, []
        for trial in trials_of([Spy(needs_anomalies=False)], SOURCES, protocol):
            detector, (anew,) = run_trial(trial, datasets, seed=3, resamples=10)
            assert shown(detector.fitted_on) == ({"normal"}, {"train", "val"})
            assert (anew.trained_on, anew.label) == ("normal", "free")
            assert anew.counts["train"] == {"normal": 20, "anomalous": 0}
            _, (shared,) = run_trial(trial, datasets, seed=3, resamples=10, fitted_before=before)
            fits.append(shared.curves)
            assert (shared.source, shared.metrics, shared.threshold) == (anew.source, anew.metrics, anew.threshold)
        assert list(before) == ["free"]
        assert [len(curves) for curves in fits] == [1, 0, 0]  # it was found the second time
    before = {}
    fitted = [
        run_trial(trial, datasets, seed=3, fitted_before=before, resamples=5)[0].fitted_on
        for trial in trials_of([Spy()], SOURCES, "known")
    ]
    assert before == {}
    assert len({tuple(ids) for ids in fitted}) == len(SOURCES)


def test_conventions_are_added_under_their_names(datasets):
    trial = trials_of([Spy()], SOURCES, "known")[0]
    _, (outcome,) = run_trial(trial, datasets, seed=0, resamples=10, conventions=["lee2018", "energy"])
    for split, part in outcome.scores.items():
        for name in ("lee2018", "energy"):
            expected = conventional_metrics(part.scores, part.labels, name)
            assert {key: outcome.metrics[split][f"{name}/{key}"] for key in expected} == expected
    assert not [key for key in run_trial(trial, datasets, seed=0, resamples=10)[1][0].metrics["test"] if "/" in key]


def test_processes_share_the_trials_and_agree_on_the_order(datasets):
    detectors = [Spy(), GradientKNN()]
    trials = trials_of(detectors, SOURCES, "cross")
    for processes in (1, 2, 5):
        parts = [trials_of_process(trials, SOURCES, rank, processes) for rank in range(processes)]
        assert sorted(map(id, (trial for part in parts for trial in part))) == sorted(map(id, trials))
        outcomes = [
            one for part in parts for trial in part for one in run_trial(trial, datasets, seed=0, resamples=5)[1]
        ]
        found = [(o.source, o.detector, o.trained_on) for o in gather_outcomes(outcomes, detectors, SOURCES)]
        assert found == [
            key
            for source in SOURCES
            for key in (*((source, "spy", other) for other in SOURCES), (source, "gradient_knn", "normal"))
        ]
