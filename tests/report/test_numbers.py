import csv
import json
import math
import os

import numpy as np
import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.core.files import atomic_write
from lightning_gradood.evaluation.trials import SplitScores, flagged_normal
from lightning_gradood.records import read_columns
from lightning_gradood.report import DetectionReport, console_table, results_table, scores_table, write_results
from lightning_gradood.report.results import plain, results_document
from lightning_gradood.report.tables import curve_rows, detection_scalars, percent

from .examples import LAYERS, outcome, report


def _cells(line):
    """Cells of a table's line; two spaces or more separate them."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_console_table_shows_the_numbers_of_the_outcomes():
    outcomes = report().outcomes
    lines = console_table(outcomes).splitlines()
    header = _cells(lines[0])
    for line, expected in zip(lines[2:6], outcomes, strict=True):
        row = dict(zip(header, _cells(line), strict=True))
        test = expected.metrics["test"]
        assert (row["source"], row["detector"]) == (expected.source, expected.detector)
        assert (row["n train"], row["n val"], row["n test"]) == ("120+60", "120+60", "60+30")
        assert row["AUROC"] == f"{100 * test['auroc']:.2f}"
        low, high = expected.auroc_interval
        assert row["95 % interval"] == f"[{100 * low:.1f}, {100 * high:.1f}]"
        assert row["AUPR-in"] == percent(test["aupr_in"])
        assert row["AUPR-out"] == percent(test["aupr_out"])
        assert row["FPR95"] == percent(test["fpr95_in"])
        assert row["acc(oracle)"] == percent(test["detection_accuracy"])
        assert row["acc(val)"] == percent(test["accuracy_at_val_threshold"])
        assert row["acc(0.5)"] == (percent(test["accuracy_at_0.5"]) if expected.detector == "mlp" else "-")


def test_console_table_shows_the_success_of_attacks_where_there_were_any():
    clean, attacked = outcome("svhn"), outcome("bim", seed=1)
    attacked.metrics["test"]["attack_success"] = 0.875
    header, _, *lines = console_table([clean, attacked]).splitlines()
    found = [dict(zip(_cells(header), _cells(line), strict=True))["success"] for line in lines[:2]]
    assert found == ["-", "87.50"]
    assert "success = share of attacked" in console_table([clean, attacked])
    assert "success" not in console_table([clean])


def test_console_table_averages_each_detector_over_its_sources():
    outcomes = report().outcomes
    lines = console_table(outcomes).splitlines()
    header = _cells(lines[0])
    means = [dict(zip(header, _cells(line), strict=True)) for line in lines if line.startswith("mean ")]
    assert [row["detector"] for row in means] == ["mlp", "energy"]
    for row, group in zip(means, (outcomes[:2], outcomes[2:]), strict=True):
        assert row["AUROC"] == percent(sum(o.metrics["test"]["auroc"] for o in group) / 2)
        assert row["n test"] == row["95 % interval"] == "-"


def test_console_table_has_no_mean_of_a_single_source_and_is_plain_text_that_fits():
    table = console_table([outcome("tiny_imagenet", "mahalanobis")])
    assert "mean" not in [line.split()[0] for line in table.splitlines()]
    assert table.isascii()
    assert max(map(len, table.splitlines())) <= 150


def test_columns_are_aligned():
    lines = console_table(report().outcomes).splitlines()
    assert len({line.rindex("]") for line in lines[2:6]}) == 1
    assert len({len(line) for line in (lines[0], *lines[2:6])}) == 1


def test_percent_says_when_there_is_no_number():
    assert percent(None) == percent(math.nan) == "-"
    assert percent(1.0) == "100.00"


def lines(table):
    """Rows of a table that is given as columns."""
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def test_the_long_table_holds_every_number_once():
    example = report()
    rows = lines(results_table(example.outcomes))
    found = {(row["source"], row["detector"], row["split"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    for expected in example.outcomes:
        key = (expected.source, expected.detector)
        for split, metrics in expected.metrics.items():
            assert {metric: found[(*key, split, metric)]["value"] for metric in metrics} == metrics
        for split, counts in expected.counts.items():
            assert found[(*key, split, "n_normal")]["value"] == counts["normal"]
            assert found[(*key, split, "n_anomalous")]["value"] == counts["anomalous"]
            assert found[(*key, split, "prevalence")]["value"] == pytest.approx(1 / 3)
        area = found[(*key, "test", "auroc")]
        assert (area["low"], area["high"]) == expected.auroc_interval
        assert found[(*key, "val", "threshold")]["value"] == expected.threshold
        assert found[(*key, "test", "seconds")]["value"] == expected.seconds
    assert {(row["split"], row["metric"]) for row in rows if row["low"] is not None} == {("test", "auroc")}
    assert {row["trained_on"] for row in rows} == {outcome.trained_on or outcome.source for outcome in example.outcomes}


def test_every_image_has_its_score_and_whether_it_is_flagged():
    example = report()
    rows = lines(scores_table(example.outcomes))
    for expected in example.outcomes:
        for split, scores in expected.scores.items():
            own = [
                row
                for row in rows
                if (row["source"], row["detector"], row["split"]) == (expected.source, expected.detector, split)
            ]
            assert [row["id"] for row in own] == scores.ids
            assert [row["anomalous"] for row in own] == scores.labels.tolist()
            assert [row["score"] for row in own] == scores.scores.tolist()
            normal = expected.scores["val"].scores[expected.scores["val"].labels == 0]
            p_values = [(1 + np.sum(normal >= score)) / (1 + len(normal)) for score in scores.scores]
            assert [row["p_value"] for row in own] == pytest.approx(p_values, rel=1e-12)
            assert [row["flagged"] for row in own] == [score > expected.threshold for score in scores.scores]
    assert len(rows) == sum(len(part.ids) for outcome in example.outcomes for part in outcome.scores.values())


def test_results_json_comes_back_as_it_went(tmp_path):
    example = report()
    write_results(example, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document == results_document(example)
    assert document["provenance"] == example.provenance
    for read, expected in zip(document["outcomes"], example.outcomes, strict=True):
        assert (read["source"], read["detector"]) == (expected.source, expected.detector)
        assert (read["metrics"], read["counts"], read["curves"]) == (expected.metrics, expected.counts, expected.curves)
        assert (read["auroc_interval"]["low"], read["auroc_interval"]["high"]) == expected.auroc_interval
        assert (read["threshold"], read["seconds"]) == (expected.threshold, expected.seconds)
    mean = (example.outcomes[0].metrics["val"]["auroc"] + example.outcomes[1].metrics["val"]["auroc"]) / 2
    assert document["mean"]["mlp"]["val"]["auroc"] == mean


def test_csv_and_parquet_hold_the_same_floats(tmp_path):
    example = report()
    _, path, parquet, scores = write_results(example, tmp_path)
    expected = results_table(example.outcomes)
    assert read_columns(parquet) == expected
    assert read_columns(scores) == scores_table(example.outcomes)
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["value"]) for row in read] == expected["value"]
    assert [row["source"] for row in read] == expected["source"]
    assert [float(row["low"]) if row["low"] else None for row in read] == expected["low"]


def test_numbers_that_json_lacks_become_null(tmp_path):
    strange = {"nan": float("nan"), "array": np.array([1.0, np.inf]), "scalar": np.float32(0.5), "path": tmp_path}
    example = DetectionReport("x", [outcome()], provenance=strange)
    write_results(example, tmp_path)
    text = (tmp_path / "results.json").read_text()
    provenance = json.loads(text)["provenance"]
    assert provenance == {"nan": None, "array": [1.0, None], "scalar": 0.5, "path": str(tmp_path)}
    assert "NaN" not in text
    assert "Infinity" not in text
    assert plain({1: (True, None, "a")}) == {"1": [True, None, "a"]}


def test_a_write_that_fails_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "a.json"
    with atomic_write(path) as file:
        file.write(b"old")

    def fail_midway():
        with atomic_write(path) as file:
            file.write(b"half of the ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_midway()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as file:
        file.write(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_scalars_have_the_names_that_sweeps_optimise():
    outcomes = report().outcomes
    scalars = detection_scalars(outcomes)
    assert scalars["detection/svhn/mlp/test/auroc"] == outcomes[0].metrics["test"]["auroc"]
    assert scalars["detection/svhn/mlp/test/auroc_low"] == outcomes[0].auroc_interval[0]
    assert scalars["detection/places/lsun/energy/val/n_anomalous"] == 60
    mean = (outcomes[0].metrics["val"]["auroc"] + outcomes[1].metrics["val"]["auroc"]) / 2
    assert scalars["detection/mean/mlp/val/auroc"] == mean
    assert not [key for key in scalars if "/train/" in key]


def test_the_mean_is_logged_for_a_single_source_too():
    single = outcome()
    assert detection_scalars([single])["detection/mean/mlp/val/auroc"] == single.metrics["val"]["auroc"]


def test_a_metric_that_one_source_lacks_has_no_mean():
    whole, partial = outcome("a"), outcome("b")
    del partial.metrics["test"]["aupr_in"]
    scalars = detection_scalars([whole, partial])
    assert "detection/mean/mlp/test/aupr_in" not in scalars
    assert "detection/mean/mlp/val/aupr_in" in scalars


def test_curves_are_lined_up_by_epoch():
    outcomes = report().outcomes
    rows = curve_rows(outcomes)
    assert [epoch for epoch, _ in rows] == list(range(7))  # svhn trained 3 epochs, places 7, energy none
    for expected in outcomes[:2]:
        key = f"detector/{expected.source}/mlp/val/loss"
        assert [values[key] for _, values in rows if key in values] == [p["val/loss"] for p in expected.curves]
    assert not [key for _, values in rows for key in values if key.endswith("epoch")]


def test_a_source_called_mean_is_refused():
    with pytest.raises(Refusal, match=r'should name no source "mean".*Got `source = .mean.`. Rename the source'):
        DetectionReport("x", [outcome("mean")])


def test_the_same_source_and_detector_twice_is_refused():
    with pytest.raises(Refusal, match=r"each pair of source and detector once.*`'svhn'` with `'mlp'` 2 times"):
        DetectionReport("x", [outcome(), outcome()])


def test_norms_of_another_width_are_refused():
    with pytest.raises(Refusal, match=r"`norms\['normal'\]`.*shape \[n, 53\].*Got `shape = \[4, 2\]`"):
        DetectionReport("x", [], norms={"normal": np.ones((4, 2))}, layer_names=LAYERS)


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(Refusal, match=r"`samples\['normal'\]`.*Got `float64 \[2, 3, 8, 8\]`. Move the channels last"):
        DetectionReport("x", [], samples={"normal": np.ones((2, 3, 8, 8))})


def test_shares_of_normal_images_flagged_stand_with_their_intervals():
    normal, calibration = np.arange(200.0), np.arange(100.0)
    zeros, ones = np.zeros(100, dtype=np.int64), np.zeros(200, dtype=np.int64)
    val = SplitScores([f"v{row}" for row in range(100)], zeros, calibration)
    test = SplitScores([f"t{row}" for row in range(200)], ones, normal)
    found = flagged_normal(val, test)
    # of 100 calibration scores the largest, 99, is exceeded at 1 %, and the fifth largest, 95, at 5 %
    assert found == {"flagged_at_1_percent": 100 / 200, "flagged_at_5_percent": 104 / 200}
    few = SplitScores(val.ids[:50], zeros[:50], calibration[:50])
    assert list(flagged_normal(few, test)) == ["flagged_at_5_percent"]
    assert flagged_normal(SplitScores([], zeros[:0], calibration[:0]), test) == {}
