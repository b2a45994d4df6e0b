"""Fit on `train`, threshold from `val`, `test` looked at once, every number as scikit-learn has it; and who may know what."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from asserts import assert_refused
from made_up_records import PROBE, Spy, changed, records
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from lightning_gradood.core import Refusal, named_seed
from lightning_gradood.detectors import MLP, GradientKNN, Tuned
from lightning_gradood.evaluation import (
    DetectionDatasets,
    DetectionSettings,
    evaluate,
    fit_side_by_side,
    gather,
    refuse_empty_splits,
    refuse_single,
    trials_of,
)
from lightning_gradood.evaluation import (
    protocol as protocols,
)
from lightning_gradood.evaluation.protocol import run_trial
from lightning_gradood.evaluation.selection import Calibrated, best_calibrated
from lightning_gradood.gradients import AllOnes, AllZeros
from lightning_gradood.metrics import auroc_interval, conventional_metrics
from lightning_gradood.networks import MLPSettings
from lightning_gradood.records import SPLITS, Records
from lightning_gradood.report.tables import console_table, printed_rows

SOURCES = ["smoke", "fog", "rain"]
PROTOCOLS = ("known", "leave_one_out", "cross")


@pytest.fixture
def table():
    """Return records of which some are confused, more normal than anomalous ones."""
    both = records({"train": 10, "val": 50, "test": 40}, gap=1.5)
    return Records(both.table.filter([name[0] == "n" or int(name[-4:]) % 3 > 0 for name in both.ids]))


def outcome_of(table, detector=None):
    return evaluate(detector or Spy(), table, source="smoke", seed=0, resamples=30)


def test_every_number_is_scikit_learn_s_of_the_scores_of_each_split(table):
    detector = Spy(scores_are_logits=True)
    outcome = outcome_of(table, detector)
    assert detector.seed == named_seed(0, "smoke", bits=32)
    assert (outcome.source, outcome.detector, outcome.trained_on) == ("smoke", "spy", "smoke")
    assert outcome.curves == [{"epoch": 0, "val/loss": 1.0}]
    for split, part in outcome.scores.items():
        labels, scores = part.labels, part.scores
        assert part.ids == table.where(split=split).ids
        assert labels.tolist() == [int(name.startswith("smoke")) for name in part.ids]
        assert outcome.counts[split] == {"normal": sum(labels == 0), "anomalous": sum(labels)}
        expected = {
            "auroc": roc_auc_score(labels, scores),
            "aupr_out": average_precision_score(labels, scores),
            "aupr_in": average_precision_score(1 - labels, -scores),
            "prevalence": labels.mean(),
        }
        for name, threshold in (("val_threshold", outcome.threshold), ("0.5", 0.0)):
            expected[f"accuracy_at_{name}"] = accuracy_score(labels, scores > threshold)
            expected[f"accuracy_at_{name}_balanced"] = balanced_accuracy_score(labels, scores > threshold)
        assert {name: outcome.metrics[split][name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert "accuracy_at_0.5" not in outcome_of(table).metrics["test"]  # only where scores are odds
    test = outcome.scores["test"]
    assert outcome.auroc_interval == auroc_interval(test.scores, test.labels, test.ids, 30, detector.seed)


def test_test_is_looked_at_once_after_the_threshold_was_chosen(table):
    detector, split_of = Spy(), dict(zip(table.ids, table.column("split"), strict=True))
    outcome = outcome_of(table, detector)
    seen = [{split_of[name] for name in part.ids} for part in detector.scored]
    assert [splits for splits, _ in itertools.groupby(seen)] == [{"val"}, {"test"}]  # each in blocks, `train` never
    other = outcome_of(changed(table, table.column("split") == "test", {PROBE: 1.0}))
    assert (other.threshold, other.metrics["val"]) == (outcome.threshold, outcome.metrics["val"])


def records_of(source, place):
    """Records of a source, as far off as its place; of five images two are in `train`, two in `val`."""
    ids = [f"{source}/{row:03d}" for row in range(50)]
    values = np.exp(np.random.default_rng(place).normal(place, 1, size=(50, 3)))
    splits = {name: SPLITS[row % 5 // 2] for row, name in enumerate(ids)}
    return Records.build(ids, source=source, values={PROBE: values}).with_splits(splits)


RECORDS = {source: records_of(source, place) for place, source in enumerate(["normal", *SOURCES])}
DATASETS = DetectionDatasets(RECORDS, noise_of=lambda source: None, keep_of=lambda source: "all")


def run(trial, fits=None, **settings):
    return run_trial(trial, DATASETS, DetectionSettings(resamples=10, **settings), fits)


def shown(ids):
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
    words = "`detection.protocol = {}` should have at least two anomaly sources. Got ['smoke']. Add another"
    assert_refused(*((lambda p=p: refuse_single(["smoke"], p), words.format(p)) for p in PROTOCOLS[1:]))


def test_under_leave_one_out_nothing_of_the_tested_source_is_seen_before_test():
    for trial in trials_of([Spy()], SOURCES, "leave_one_out"):
        trial.detector.scored.clear()
        detector, (outcome,) = run(trial)
        others, ids = {"normal", *SOURCES} - {outcome.source}, detector.fits[-1].ids
        assert shown(ids) == (others, {"train", "val"})
        assert len(set(ids)) == len(ids) == 3 * 40
        blocks = itertools.groupby([part.ids for part in detector.scored], key=lambda ids: shown(ids)[1])
        val, test = ([name for ids in group for name in ids] for _, group in blocks)
        assert (shown(val), shown(test)) == ((others, {"val"}), ({"normal", outcome.source}, {"test"}))
        assert (outcome.trained_on, outcome.label, outcome.transferred) == ("others", "spy", False)


def test_a_matrix_fits_once_tests_everywhere_with_one_threshold_and_has_known_on_its_diagonal():
    for trial in trials_of([Spy()], SOURCES, "cross"):
        detector, outcomes = run(trial, seed=7)
        assert shown(detector.fits[-1].ids)[0] == {"normal", trial.owner}
        assert detector.seed == named_seed(7, trial.owner, bits=32)
        assert [outcome.source for outcome in outcomes] == SOURCES
        assert len({outcome.threshold for outcome in outcomes}) == 1
        for outcome in outcomes:
            own = outcome.source == trial.owner
            assert (outcome.label, outcome.trained_on) == ("spy" if own else f"spy@{trial.owner}", trial.owner)
            known = evaluate(Spy(), DATASETS.of(Spy(), outcome.source), source=outcome.source, seed=7, resamples=10)
            assert ((outcome.metrics, outcome.auroc_interval) == (known.metrics, known.auroc_interval)) == own


def test_a_one_class_detector_sees_normal_records_alone_and_is_fitted_once_for_all_sources():
    for protocol in PROTOCOLS:
        before = {}
        for trial in trials_of([Spy(needs_anomalies=False)], SOURCES, protocol):
            detector, (anew,) = run(trial, seed=3)
            assert shown(detector.fits[-1].ids) == ({"normal"}, {"train", "val"})
            assert (anew.label, anew.counts["train"]) == ("free", {"normal": 20, "anomalous": 0})
            _, (shared,) = run(trial, seed=3, fits=before)
            assert shared.curves == anew.curves
            assert (shared.source, shared.metrics, shared.threshold) == (anew.source, anew.metrics, anew.threshold)
        assert list(before) == [("normal", "free")]


def test_under_openood_only_the_source_for_validation_is_known_and_all_others_are_tested():
    expected = {True: ("validation", {"normal", "fog"}), False: ("normal", {"normal"})}
    for needy, (trained_on, known) in expected.items():
        (trial,) = trials_of([Spy(needs_anomalies=needy)], SOURCES, "openood", "fog")
        detector, outcomes = run(trial, seed=3)
        assert shown(detector.fits[-1].ids) == (known, {"train", "val"})
        assert [(one.source, one.trained_on, one.transferred) for one in outcomes] == [
            (source, trained_on, False) for source in ("smoke", "rain")
        ]
        assert {len(one.scores["val"].ids) for one in outcomes} == {
            40
        }  # of the source for validation, as the threshold
        settings = DetectionSettings(protocol="openood", validation="fog", false_positive_rate=0.1)
        guard = best_calibrated([detector], DATASETS, SOURCES, settings)
        assert shown(detector.fits[-1].ids)[0] == known
        assert {name: {*one} & {"val/auroc", "test/auroc"} for name, one in guard.metrics.items()} == {
            "fog": {"val/auroc"}, "smoke": {"test/auroc"}, "rain": {"test/auroc"}, "normal": set(),
        }  # fmt: skip
    (trial,) = trials_of([Spy(needs_anomalies=False)], SOURCES, "openood")
    detector, outcomes = run(trial)
    assert [one.source for one in outcomes] == SOURCES
    assert "auroc" not in outcomes[0].metrics["val"]
    guard = best_calibrated(
        [detector], DATASETS, SOURCES, DetectionSettings(protocol="openood", false_positive_rate=0.1)
    )
    assert np.isnan(guard.val_auroc)
    tuned, counts = (
        trials_of([Spy()], SOURCES, "known"),
        {name: dict.fromkeys(SPLITS, 5) for name in ("normal", *SOURCES)},
    )
    counts["rain"] |= {"train": 0, "val": 0}
    refuse_empty_splits(counts, trials_of([Spy()], SOURCES, "openood", "fog"), "openood")
    assert_refused(
        (
            lambda: refuse_empty_splits(counts, tuned, "known"),
            "`data.anomalies.rain` should have images in `train` for `spy`",
        ),
        (
            lambda: refuse_single(SOURCES, "openood", "fgo"),
            "Got `detection.validation = fgo` of ['smoke', 'fog', 'rain']",
        ),
        (lambda: DetectionSettings(validation="fog"), "named for `detection.protocol = openood` alone"),
    )


def test_shifted_sources_count_as_normal_in_the_full_spectrum_of_the_others():
    (trial,) = trials_of([Spy(needs_anomalies=False)], SOURCES, "openood")
    _, outcomes = run_trial(trial, replace(DATASETS, shifted=["fog"]), DetectionSettings(resamples=10))
    scores = {one.source: one.scores["test"] for one in outcomes}
    found = {one.source: one.metrics["test"].get("full_spectrum/auroc") for one in outcomes}
    for source in ("smoke", "rain"):
        test, fog = scores[source], scores["fog"].scores[scores["fog"].labels == 1]
        labels = [*test.labels, *[0] * len(fog)]
        assert found[source] == pytest.approx(roc_auc_score(labels, [*test.scores, *fog]))
    assert found["fog"] is None
    printed = console_table(*printed_rows(outcomes))
    assert f"{100 * found['rain']:.2f}" in printed
    assert "full spectrum = AUROC" in printed


def test_training_images_take_the_place_of_normal_ones_where_neither_anomalies_nor_outliers_are_needed():
    values = {PROBE: DATASETS.records["normal"].probe(PROBE)[:30], "others": np.zeros((30, 2))}
    training = Records.build([f"train/{row}" for row in range(30)], source="train", values=values).as_training("normal")
    datasets = replace(DATASETS, training=training)
    for needy, tuned in ((False, False), (False, True), (True, False), (True, True)):
        spy, known = Spy(needs_anomalies=needy), {("normal" if needy else "train", "train"), ("normal", "val")}
        detector = Tuned([spy]) if tuned else spy  # anomalies of `val` choose among its fits
        (trial,) = trials_of([detector], ["smoke"], "known")
        outcomes = run_trial(trial, datasets, DetectionSettings(resamples=10))[1]
        fitted = spy.fits[-1].where(source="normal")
        ids = zip(fitted.ids, fitted.column("split"), strict=True)
        assert {(name.partition("/")[0], split) for name, split in ids} == known
        assert outcomes[0].counts["train"]["normal"] == (20 if needy else 30)
        best_calibrated([detector], datasets, ["smoke"], DetectionSettings(false_positive_rate=0.1))
        assert (spy.fits[-1].ids[0].partition("/")[0] == "train") == (not needy)


def test_mlps_of_all_trials_are_trained_together_end_as_alone_and_do_not_fail_together():
    settings = MLPSettings(width=8, max_epochs=20, patience=2, learning_rate=1e-2)
    mlps = [MLP([AllOnes()], settings), MLP([AllZeros()], settings, name="without_records")]
    trials = trials_of([*mlps, Spy()], SOURCES, "leave_one_out")
    fits = fit_side_by_side(trials, DATASETS, seed=4)
    assert sorted(fits) == sorted((source, "mlp") for source in SOURCES)
    for trial in trials[::3]:
        (alone,), (found,) = run(trial, seed=4)[1], run(trial, seed=4, fits=fits)[1]
        assert len(alone.curves) == len(found.curves) > 1
        np.testing.assert_allclose(found.scores["test"].scores, alone.scores["test"].scores, rtol=1e-4, atol=1e-5)
        assert found.seconds > fits[trial.owner, "mlp"][1] > 0
    for trial in trials[1::3]:
        with pytest.raises(Refusal, match="all_zeros"):
            run(trial, seed=4, fits=fits)


def test_a_guard_is_calibrated_on_normal_images_that_it_was_neither_fitted_on_nor_selected_by():
    for detector, count in ((Spy(), 10), (Spy(needs_anomalies=False), 20)):
        found = best_calibrated([detector], DATASETS, SOURCES, DetectionSettings(false_positive_rate=0.1))
        calibrating = {name for part in detector.scored[: -(-count // 32)] for name in part.ids}
        assert (len(found.calibration), len(calibrating)) == (count, count)
        assert shown(calibrating) == ({"normal"}, {"val"})
        assert not calibrating & set(detector.fits[-1].ids) or not detector.needs_anomalies


def test_a_source_of_few_images_weighs_less_where_the_guard_is_chosen():
    aurocs = {"sure": {"many": (0.90, 768), "few": (0.70, 3)}, "lucky": {"many": (0.88, 768), "few": (1.00, 3)}}

    def chosen(name, images=None):
        metrics = {
            source: {"val/auroc": value, "val/images": float(images or number)}
            for source, (value, number) in aurocs[name].items()
        }
        return Calibrated.val_auroc.fget(SimpleNamespace(metrics=metrics))

    assert chosen("sure") > chosen("lucky")
    for name, found in aurocs.items():
        assert chosen(name, images=50) == pytest.approx(np.mean([value for value, _ in found.values()]))


def test_conventions_are_added_under_their_names():
    _, (outcome,) = run(trials_of([Spy()], SOURCES, "known")[0], metrics=["lee2018", "energy"])
    for (split, part), name in itertools.product(outcome.scores.items(), ("lee2018", "energy")):
        expected = conventional_metrics(part.scores, part.labels, name)
        assert {key: outcome.metrics[split][f"{name}/{key}"] for key in expected} == expected


def test_remarks_of_detectors_that_another_process_has_fitted_are_told(monkeypatch):
    monkeypatch.setattr(protocols, "gathered", lambda mine: [mine, {"theirs": "b"}])
    fits = {("normal", "mine"): (SimpleNamespace(remark="a"), 0.0), ("smoke", "not_told"): (SimpleNamespace(), 0.0)}
    assert protocols.remarks_on(fits) == {"mine": "a", "theirs": "b"}


def test_processes_share_the_trials_and_agree_on_the_order():
    detectors, ends = [Spy(), GradientKNN()], [*(("spy", other) for other in SOURCES), ("gradient_knn", "normal")]
    expected = [(source, *end) for source in SOURCES for end in ends]
    for processes in (1, 2, 5):
        parts = [trials_of(detectors, SOURCES, "cross", None, rank, processes) for rank in range(processes)]
        outcomes = [one for part in parts for trial in part for one in run(trial)[1]]
        found = [(o.source, o.detector, o.trained_on) for o in gather(outcomes, [], detectors, SOURCES)[0]]
        assert found == expected
