"""Who may know what: which sources a detector is fitted on under each protocol, and which it is tested on."""

import itertools
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_gradood.core import Refusal, named_seed
from lightning_gradood.detectors import MLP, Detector, GradientKNN
from lightning_gradood.evaluation import DetectionDatasets, evaluate, run_trial, trials_of
from lightning_gradood.evaluation.protocol import gather_outcomes, refuse_single, trials_of_process
from lightning_gradood.gradients import AllOnes
from lightning_gradood.metrics import conventional_metrics
from lightning_gradood.probes import GradientProbe
from lightning_gradood.records import SPLITS, Records
from lightning_gradood.tasks import MLPSettings

SOURCES = ["smoke", "fog", "rain"]


class Spy(Detector):
    """Score by the first norm; note the ids it is shown."""

    def __init__(self, needs_anomalies=True):
        self.needs, self.fitted_on, self.scored, self.seed = needs_anomalies, [], [], None

    @property
    def needs_anomalies(self):
        return self.needs

    @property
    def name(self):
        return "spy" if self.needs else "free"

    @property
    def probes(self):
        return [GradientProbe(AllOnes())]

    def fit(self, records, seed):
        self.fitted_on, self.seed = records.ids, seed
        return []

    def score(self, records):
        self.scored.append(records.ids)
        return np.log(records.probe("gradients/all_ones")[:, 0])

    def state_dict(self):
        return {"nothing": torch.zeros(1)}

    def load_state_dict(self, state):
        pass


@pytest.fixture
def datasets():
    """Records of the normal source and three anomalous ones, each as far off as its place."""
    rng, records = np.random.default_rng(0), {}
    for place, source in enumerate(["normal", *SOURCES]):
        ids = [f"{source}/{row:03d}" for row in range(50)]
        values = np.exp(rng.normal(place, 1, size=(50, 3)))
        splits = {name: SPLITS[row % 5 // 2] for row, name in enumerate(ids)}
        records[source] = Records.build(ids, source=source, values={"gradients/all_ones": values}).with_splits(splits)
    return DetectionDatasets(records, noise_of=lambda source: None, keep_of=lambda source: "all")


def shown(ids):
    """The sources of some ids."""
    return {name.split("/")[0] for name in ids}


def splits_of(datasets, ids):
    """The splits of some ids."""
    split = {
        name: part
        for table in datasets.records.values()
        for name, part in zip(table.ids, table.column("split"), strict=True)
    }
    return {split[name] for name in ids}


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("known", [("smoke", ["smoke"], ["smoke"]), ("fog", ["fog"], ["fog"]), ("rain", ["rain"], ["rain"])]),
        (
            "leave_one_out",
            [
                ("others", ["fog", "rain"], ["smoke"]),
                ("others", ["smoke", "rain"], ["fog"]),
                ("others", ["smoke", "fog"], ["rain"]),
            ],
        ),
        ("cross", [("smoke", ["smoke"], SOURCES), ("fog", ["fog"], SOURCES), ("rain", ["rain"], SOURCES)]),
    ],
)
def test_each_protocol_trains_and_tests_where_it_says(protocol, expected):
    trials = trials_of([Spy()], SOURCES, protocol)
    assert [(trial.name, list(trial.trained_on), list(trial.tested_on)) for trial in trials] == expected
    assert [trial.owner for trial in trials] == SOURCES


def test_a_one_class_detector_is_fitted_once_for_each_tested_source_whatever_the_protocol():
    known, leave_one_out, cross = [
        trials_of([Spy(needs_anomalies=False)], SOURCES, name) for name in ("known", "leave_one_out", "cross")
    ]
    for trials in (known, leave_one_out, cross):
        assert [trial.tested_on for trial in trials] == [(source,) for source in SOURCES]


def test_under_leave_one_out_nothing_of_the_tested_source_is_seen_before_test(datasets):
    for trial in trials_of([Spy()], SOURCES, "leave_one_out"):
        detector, (outcome,) = run_trial(trial, datasets, seed=0, resamples=10)
        others = {"normal", *SOURCES} - {outcome.source}
        assert shown(detector.fitted_on) == others
        assert splits_of(datasets, detector.fitted_on) == {"train", "val"}
        blocks = itertools.groupby(detector.scored, key=lambda ids: splits_of(datasets, ids))
        val, test = ([name for ids in group for name in ids] for _, group in blocks)
        assert (shown(val), splits_of(datasets, val)) == (others, {"val"})
        assert (shown(test), splits_of(datasets, test)) == ({"normal", outcome.source}, {"test"})
        assert len(set(detector.fitted_on)) == len(detector.fitted_on) == 3 * 40
        assert outcome.counts == {
            "train": {"normal": 20, "anomalous": 40},
            "val": {"normal": 20, "anomalous": 40},
            "test": {"normal": 10, "anomalous": 10},
        }
        assert (outcome.trained_on, outcome.label, outcome.transferred) == ("others", "spy", False)


def test_a_matrix_fits_once_and_tests_everywhere_with_one_threshold(datasets):
    trial = trials_of([Spy()], SOURCES, "cross")[1]
    detector, outcomes = run_trial(trial, datasets, seed=0, resamples=10)
    assert shown(detector.fitted_on) == {"normal", "fog"}
    assert [outcome.source for outcome in outcomes] == SOURCES
    assert {outcome.threshold for outcome in outcomes} == {outcomes[0].threshold}
    assert [outcome.label for outcome in outcomes] == ["spy@fog", "spy", "spy@fog"]
    for outcome in outcomes:
        test = datasets.of(outcome.source).where(split="test")
        expected = roc_auc_score(test.anomalous, detector.score(test))
        assert outcome.metrics["test"]["auroc"] == pytest.approx(expected)
        assert outcome.trained_on == "fog"


def test_a_one_class_detector_sees_normal_records_alone_and_says_so(datasets):
    for protocol in ("known", "leave_one_out", "cross"):
        for trial in trials_of([Spy(needs_anomalies=False)], SOURCES, protocol):
            detector, (outcome,) = run_trial(trial, datasets, seed=0, resamples=10)
            assert shown(detector.fitted_on) == {"normal"}
            assert (outcome.trained_on, outcome.label) == ("normal", "free")
            assert outcome.counts["train"] == {"normal": 20, "anomalous": 0}


def test_known_is_evaluate_of_each_source(datasets):
    settings = MLPSettings(width=8, max_epochs=3)
    for trial in trials_of([MLP([AllOnes()], settings)], SOURCES, "known"):
        _, (found,) = run_trial(trial, datasets, seed=3, resamples=20)
        expected = evaluate(
            MLP([AllOnes()], settings), datasets.of(found.source), source=found.source, seed=3, resamples=20
        )
        for field in ("metrics", "counts", "threshold", "auroc_interval", "curves", "trained_on"):
            assert getattr(found, field) == getattr(expected, field)
        assert found.trained_on == found.source


def test_the_diagonal_of_a_matrix_is_known(datasets):
    known = [run_trial(trial, datasets, seed=0, resamples=10)[1][0] for trial in trials_of([Spy()], SOURCES, "known")]
    matrix = [
        run
        for trial in trials_of([Spy()], SOURCES, "cross")
        for run in run_trial(trial, datasets, seed=0, resamples=10)[1]
    ]
    diagonal = [outcome for outcome in matrix if not outcome.transferred]
    assert [(o.source, o.metrics, o.auroc_interval) for o in diagonal] == [
        (o.source, o.metrics, o.auroc_interval) for o in known
    ]


def test_the_fit_is_seeded_by_its_source(datasets):
    for protocol in ("known", "leave_one_out", "cross"):
        for trial in trials_of([Spy()], SOURCES, protocol):
            detector, _ = run_trial(trial, datasets, seed=7, resamples=10)
            assert detector.seed == named_seed(7, trial.owner, bits=32)
            assert trial.detector.seed is None  # a copy was fitted


def test_conventions_are_added_under_their_names(datasets):
    trial = trials_of([Spy()], SOURCES, "known")[0]
    _, (outcome,) = run_trial(trial, datasets, seed=0, resamples=10, conventions=["lee2018", "energy"])
    for split, part in outcome.scores.items():
        for name in ("lee2018", "energy"):
            expected = conventional_metrics(part.scores, part.labels, name)
            assert {key: outcome.metrics[split][f"{name}/{key}"] for key in expected} == expected
    assert not [key for key in run_trial(trial, datasets, seed=0, resamples=10)[1][0].metrics["test"] if "/" in key]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_processes_share_the_trials_and_agree_on_the_order(datasets, processes):
    detectors = [Spy(), GradientKNN()]
    trials = trials_of(detectors, SOURCES, "cross")
    parts = [trials_of_process(trials, SOURCES, rank, processes) for rank in range(processes)]
    assert sorted(map(id, (trial for part in parts for trial in part))) == sorted(map(id, trials))
    outcomes = [run for part in parts for trial in part for run in run_trial(trial, datasets, seed=0, resamples=5)[1]]
    found = [(o.source, o.detector, o.trained_on) for o in gather_outcomes(outcomes, detectors, SOURCES)]
    assert found == [
        key
        for source in SOURCES
        for key in (*((source, "spy", other) for other in SOURCES), (source, "gradient_knn", "normal"))
    ]


@pytest.mark.parametrize("protocol", ["leave_one_out", "cross"])
def test_a_single_source_has_no_others(protocol):
    words = f"`detection.protocol = {protocol}` should have at least two anomaly sources. Got ['smoke']. Add another"
    with pytest.raises(Refusal, match=re.escape(words)):
        refuse_single(["smoke"], protocol)
    refuse_single(["smoke"], "known")
    refuse_single(["smoke", "fog"], protocol)


def test_a_detector_without_anomalies_is_fitted_once_for_all_sources(datasets, monkeypatch):
    fits = []
    monkeypatch.setattr(Spy, "fit", lambda self, records, seed: fits.append(records.ids) or [])
    spy, before = Spy(needs_anomalies=False), {}
    trials = trials_of([spy], SOURCES, "known")
    found = [run_trial(trial, datasets, seed=3, fitted_before=before, resamples=5) for trial in trials]
    assert len(fits) == 1
    anew = [run_trial(trial, datasets, seed=3, resamples=5) for trial in trials]
    assert len(fits) == 1 + len(SOURCES)
    assert list(before) == ["free"]
    for (_, (mine,)), (_, (theirs,)) in zip(found, anew, strict=True):
        assert (mine.source, mine.metrics, mine.threshold) == (theirs.source, theirs.metrics, theirs.threshold)


def test_one_that_knows_anomalies_is_fitted_for_each_source(datasets):
    before = {}
    fits = [
        run_trial(trial, datasets, seed=3, fitted_before=before, resamples=5)[0].fitted_on
        for trial in trials_of([Spy()], SOURCES, "known")
    ]
    assert before == {}
    assert len({tuple(ids) for ids in fits}) == len(SOURCES)
