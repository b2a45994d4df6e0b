"""The numbers of a report: printed, as files, under the names of loggers; matrices of one source against another; titles."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lightning_gradood.evaluation.trials import SplitScores, flagged_normal
from lightning_gradood.records import read_rows
from lightning_gradood.report import GuardSummary, Run, console_table, pages, printed_rows
from lightning_gradood.report.run import curve_rows, long_results, long_scores
from lightning_gradood.report.tables import Table, detection_scalars, matrices, percent

from .examples import OUTCOMES, crossed, outcome, written

SOURCES = ["svhn", "places/lsun", "bim"]


def console(outcomes):
    """The table with all columns, as text."""
    return console_table(*printed_rows(outcomes), matrices(outcomes), full=True)


def printed(outcomes):
    """Heads to cells of each row of the printed table; two spaces or more separate them."""
    lines = console(outcomes).splitlines()
    heads, *split = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return [dict(zip(heads, row, strict=True)) for row in split if len(row) == len(heads) and row[0][:2] != "--"]


def test_the_printed_table_shows_the_numbers_of_the_outcomes_and_their_means():
    *rows, first, second = printed(OUTCOMES)
    for row, expected in zip(rows, OUTCOMES, strict=True):
        test, (low, high) = expected.metrics["test"], expected.auroc_interval
        assert row == {
            "source": expected.source, "detector": expected.detector,
            "n train": "120+60", "n val": "120+60", "n test": "60+30",
            "AUROC": f"{100 * test['auroc']:.2f}", "95 % interval": f"[{100 * low:.1f}, {100 * high:.1f}]",
            "AUPR-in": percent(test["aupr_in"]), "AUPR-out": percent(test["aupr_out"]),
            "FPR95": percent(test["fpr95_in"]), "flagged (normal)": flagged(expected),
            "acc(oracle)": percent(test["detection_accuracy"]), "acc(0.5)": percent(test.get("accuracy_at_0.5")),
            "acc(val)": percent(test["accuracy_at_val_threshold"]),
        }  # fmt: skip
    for row, group in ((first, OUTCOMES[:2]), (second, OUTCOMES[2:])):
        assert (row["source"], row["detector"]) == ("mean", group[0].detector)
        assert row["AUROC"] == percent(sum(one.metrics["test"]["auroc"] for one in group) / 2)
        assert row["n test"] == row["95 % interval"] == "-"
    assert "mean" not in [line.split()[0] for line in console([outcome()]).splitlines()]


def flagged(one):
    """Shares in % of the source's and of normal images above the 5 % conformal threshold, by its definition."""
    normal = np.sort(one.scores["val"].normal)
    threshold, test = normal[-int(0.05 * (len(normal) + 1))], one.scores["test"]
    shares = [100 * np.mean(test.scores[test.labels == side] >= threshold) for side in (1, 0)]
    return f"{shares[0]:.1f} ({shares[1]:.1f})"


def test_the_table_of_the_terminal_has_one_hundred_columns_and_the_guard_s_lines_first_without_known_anomalies(
    tmp_path,
):
    names = [f"builtin_{name}" for name in ("gaussian_noise", "defocus_blur")]
    made = [outcome(source, detector) for detector in ("energy", "weighted_parts_of_all") for source in names]
    guard = GuardSummary("It guards.", "images", {}, "weighted_parts_of_all", 0.01)
    for source, first in ((names[1], "weighted_parts_of_all"), ("svhn", "energy")):
        found = Run.read(
            written(
                tmp_path, [*made[:3], dataclasses.replace(made[3], source=source, trained_on="normal")], guard=guard
            )
        )
        head, _, row, *lines = console_table(*pages.printed(found)).splitlines()
        assert max(map(len, [head, row, *lines])) <= 100
        assert row.split()[1] == first
        assert "the threshold for 1 %" in " ".join(lines)
        assert len(console_table(*pages.printed(found), full=True).splitlines()[0]) > 150


def test_a_detector_is_named_also_where_its_source_has_the_same_name():
    (row,), _ = printed_rows([outcome("energy", "energy")])
    assert (row["source"], row["detector"], "trained on" in row) == ("energy", "energy", False)


def test_long_names_are_broken_so_that_no_line_has_more_than_one_hundred_columns():
    long, run = "q" * 120, "2026-11-22_14-05-09"
    texts = [
        console_table(*printed_rows([outcome(long, "k" * 70), outcome("svhn", "k" * 70)])),
        *(Table(["mean AUROC, %", *[run] * n], [[long, *["94.22 (-12.13)"] * n]]).text() for n in (5, 8)),
        Table(["detector", *[f"{long}_{n}" for n in range(7)]], [["mlp", *["97.45 ± 10.12"] * 7]]).text(),
        matrices(crossed([long, "bim", "pgd"]))["mlp"].text(),
    ]
    for text, times in zip(texts, (1, 1, 1, 7, 2), strict=True):
        assert max(map(len, text.splitlines())) <= 100
        assert text.count("q") == 120 * times  # all of it is there


def test_a_guard_whose_auroc_may_be_that_of_chance_is_warned_of():
    def metrics(*lows):
        return {f"{low}": {"test/auroc": 0.7, "test/auroc_low": low, "test/auroc_high": 0.8} for low in lows}

    for lows, warned in (((0.4,), True), ((0.55,), False), ((0.4, 0.65), False), ((0.3, 0.65), True), ((), False)):
        guard = GuardSummary("It guards.", "images", {**metrics(*lows), "normal": {"test/flagged": 0.1}})
        assert bool(guard.warning) == warned == ("not clearly better than chance" in guard.text(Path("run")))


def test_columns_are_there_where_they_say_something():
    clean, attacked = outcome("svhn"), outcome("bim", seed=1)
    assert "success" not in printed([clean])[0]
    attacked.metrics["test"]["attack_success"] = 0.875
    assert [row["success"] for row in printed([clean, attacked])[:2]] == ["-", "87.50"]
    unknown = [dataclasses.replace(one, trained_on="") for one in (clean, attacked)]
    assert console(unknown) == console([clean, attacked])
    others = [dataclasses.replace(one, trained_on="others") for one in unknown]
    assert [row["trained on"] for row in printed(others)] == ["others"] * 3


def test_the_long_table_holds_every_number_once_and_each_image_its_score_and_whether_it_is_flagged():
    outcomes = [outcome("svhn", gap=3.0), *OUTCOMES[1:]]
    outcomes[0].scores["test"].scores[0] = outcomes[0].threshold  # on it is not above it
    rows, scored = long_results(outcomes), list(long_scores(outcomes, {}))
    found = {(row["source"], row["detector"], row["split"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    for expected in outcomes:
        key = (expected.source, expected.detector)
        for split, metrics in expected.metrics.items():
            assert {metric: found[(*key, split, metric)]["value"] for metric in metrics} == metrics
        for split, counts in expected.counts.items():
            assert {side: found[(*key, split, f"n_{side}")]["value"] for side in counts} == counts
            assert found[(*key, split, "prevalence")]["value"] == pytest.approx(1 / 3)
        area = found[(*key, "test", "auroc")]
        assert (area["low"], area["high"], area["trained_on"]) == (*expected.auroc_interval, expected.source)
        assert found[(*key, "val", "threshold")]["value"] == expected.threshold
        assert found[(*key, "test", "seconds")]["value"] == expected.seconds
        normal = expected.scores["val"].scores[expected.scores["val"].labels == 0]
        for split, scores in expected.scores.items():
            own = [row for row in scored if (row["source"], row["detector"], row["split"]) == (*key, split)]
            given = {"id": scores.ids, "anomalous": scores.labels.tolist(), "score": scores.scores.tolist()}
            given["flagged"] = [score > expected.threshold for score in scores.scores]
            assert {name: [row[name] for row in own] for name in given} == given
            p_values = [(1 + np.sum(normal >= score)) / (1 + len(normal)) for score in scores.scores]
            assert [row["p_value"] for row in own] == pytest.approx(p_values, rel=1e-12)
    assert {(row["split"], row["metric"]) for row in rows if row["low"] is not None} == {("test", "auroc")}
    assert len(scored) == sum(len(part.ids) for one in outcomes for part in one.scores.values())


def test_a_run_is_read_as_it_was_written_and_csv_and_parquet_hold_the_same_numbers(tmp_path):
    strange = {"nan": math.nan, "array": np.array([1.0, np.inf]), "scalar": np.float32(0.5), 1: (True, tmp_path)}
    none = dataclasses.replace(outcome("nine", "energy"), threshold=math.inf)
    none.metrics["test"]["auroc"] = math.nan
    outcomes = [*OUTCOMES, *crossed(["bim", "pgd"]), none]
    guard = GuardSummary("`mlp` guards.", "images", {"normal": {"test/flagged": 0.25}}, "mlp", 0.05, ["mine"])
    found = Run.read(written(tmp_path, outcomes, provenance=strange, guard=guard))
    assert (found.name, found.experiment, found.guard) == (tmp_path.name, "cifar_resnet", guard)
    assert found.provenance == {"nan": None, "array": [1.0, None], "scalar": 0.5, "1": [True, str(tmp_path)]}
    json.loads((tmp_path / "provenance.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    for read, expected in zip(found.scored, outcomes, strict=True):
        for split, scores in expected.scores.items():
            assert read.scores[split].ids == scores.ids
            for name in ("labels", "scores"):
                np.testing.assert_array_equal(getattr(read.scores[split], name), getattr(scores, name))
        parts = {"scores": {}, "curves": [] if expected.transferred else expected.curves}
        assert repr(dataclasses.replace(read, scores={})) == repr(dataclasses.replace(expected, **parts))
    for name, rows in (("results", long_results(outcomes)), ("scores", list(long_scores(outcomes, {})))):
        table = read_rows(tmp_path / f"{name}.parquet")
        assert [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)] == rows
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = [{name: "" if one is None else str(one) for name, one in row.items()} for row in long_results(outcomes)]
        assert list(csv.DictReader(file)) == rows


def test_scalars_have_the_names_that_sweeps_optimise_and_curves_are_lined_up_by_epoch():
    scalars = detection_scalars(OUTCOMES)
    assert scalars["detection/svhn/mlp/test/auroc"] == OUTCOMES[0].metrics["test"]["auroc"]
    assert scalars["detection/svhn/mlp/test/auroc_low"] == OUTCOMES[0].auroc_interval[0]
    assert scalars["detection/mean/mlp/val/auroc"] == sum(one.metrics["val"]["auroc"] for one in OUTCOMES[:2]) / 2
    assert not [key for key in scalars if "/train/" in key]
    single, partial = outcome("a"), outcome("b")
    assert detection_scalars([single])["detection/mean/mlp/val/auroc"] == single.metrics["val"]["auroc"]
    del partial.metrics["test"]["aupr_in"]
    scalars = detection_scalars([single, partial])
    assert "detection/mean/mlp/val/aupr_in" in scalars
    assert "detection/mean/mlp/test/aupr_in" not in scalars  # which one source lacks
    rows = curve_rows(OUTCOMES)
    assert [epoch for epoch, _ in rows] == list(range(7))  # svhn trained 3 epochs, places 7, energy none
    for expected in OUTCOMES[:2]:
        key = f"detector/{expected.source}/mlp/val/loss"
        assert [values[key] for _, values in rows if key in values] == [one["val/loss"] for one in expected.curves]
    assert not [key for _, values in rows for key in values if key.endswith("epoch")]


def test_a_matrix_has_rows_trained_on_and_columns_tested_on_and_a_key_for_each_number():
    outcomes = crossed(SOURCES)
    ((name, matrix),) = matrices(outcomes).items()
    scalars, aurocs = detection_scalars(outcomes), np.zeros((3, 3))
    for one in outcomes:
        auroc = one.metrics["test"]["auroc"]
        if one.detector == "mlp":
            aurocs[SOURCES.index(one.trained_on), SOURCES.index(one.source)] = auroc
        label = one.detector if one.trained_on in (one.source, "normal") else f"{one.detector}@{one.trained_on}"
        assert scalars[f"detection/{one.source}/{label}/test/auroc"] == auroc
    for label, same in (("mlp", True), ("mlp@bim", False)):
        own = [one for one in outcomes if (one.trained_on == one.source) == same and (same or one.trained_on == "bim")]
        mean = np.mean([one.metrics["val"]["auroc"] for one in own])
        assert scalars[f"detection/mean/{label}/val/auroc"] == pytest.approx(mean)
    others = (aurocs.sum(axis=1) - np.diag(aurocs)) / 2
    rows = [[f"{100 * value:.1f}" for value in row] for row in np.column_stack([aurocs, others])]
    assert (name, matrix.heads) == ("mlp", ["trained on", *SOURCES, "others"])
    assert matrix.rows == [[source, *row] for source, row in zip(SOURCES, rows, strict=True)]
    (gap,) = matrices([one for one in outcomes if (one.source, one.trained_on) != ("bim", "svhn")]).values()
    assert gap.rows[0][3:] == ["nan", gap.rows[0][2]]
    table, below = console(outcomes).split("\n\n")
    assert below.partition("\n")[2] == matrix.text()
    body = [line.split()[:3] for line in table.splitlines()[2:] if line.startswith(tuple(SOURCES))]
    assert body == [*([one, "mlp", one] for one in SOURCES), *([one, "energy", "normal"] for one in SOURCES)]
    assert matrices([one for one in outcomes if not one.transferred]) == {}
    keys = [tuple(row.values())[:5] for row in long_results(outcomes)]
    assert len(set(keys)) == len(keys)
    assert not [key for _, values in curve_rows(outcomes) for key in values if "@" in key]


def test_shares_of_normal_images_flagged_are_of_conformal_thresholds():
    def split(count):
        return SplitScores([str(row) for row in range(count)], np.zeros(count, dtype=np.int64), np.arange(float(count)))

    # of 100 calibration scores the largest, 99, is exceeded at 1 %, and the fifth largest, 95, at 5 %
    expected = {"flagged_at_1_percent": 100 / 200, "flagged_at_5_percent": 104 / 200}
    assert flagged_normal(split(100), split(200)) == expected
    assert list(flagged_normal(split(50), split(200))) == ["flagged_at_5_percent"]
    assert flagged_normal(split(0), split(200)) == {}
