"""Rows, columns, bold, the paper's numbers, and the three ways of writing them."""

import csv
import io
import re
import statistics
from dataclasses import replace

import pytest

from lightning_gradood.experiments import Cell, Experiment, TableSettings
from lightning_gradood.experiments.page import summary
from lightning_gradood.experiments.tables import Row, best_of, table_1, table_2
from lightning_gradood.experiments.writing import csv_text, latex, markdown, number, paper_layout, paper_layout_latex
from lightning_gradood.report import Grid

SEEDS = {"baseline": [0.9, 0.8], "mlp": [0.97, 0.99], "knn": [0.98, 0.98], "image_statistics": [1.0, 1.0]}


@pytest.fixture
def about(tmp_path):
    (tmp_path / "some.yaml").touch()
    return Experiment(str(tmp_path / "some.yaml"), "CIFAR-10", "ResNet")


@pytest.fixture
def rows(about):
    names = ("auroc", "detection_accuracy", "aupr_out")
    metrics = {detector: dict.fromkeys(names, values) for detector, values in SEEDS.items()}
    return [
        Row("one", about, source, made, metrics) for source, made in (("cw", True), ("svhn", False), ("rain", False))
    ]


def test_attacks_are_in_the_paper_s_order_and_others_behind(rows, about):
    made = [Row("one", about, source, True) for source in ("rain", "pgd", "cw", "fgsm")]
    other = [Row("two", about, "bim", True)]
    assert [heads[1] for heads, _ in table_1([*made, *other]).rows] == ["FGSM", "C&W", "PGD", "rain", "BIM"]


def test_each_source_is_in_the_table_it_belongs_to(rows):
    assert [heads for heads, _ in table_1(rows).rows] == [("CIFAR-10 (ResNet)", "C&W")]
    assert [heads[0] for heads, _ in table_2(rows, TableSettings()).rows] == [
        *["Detection accuracy"] * 2,
        *["AUROC"] * 2,
        *["AUPR (anomalous positive)"] * 2,
    ]


def test_columns_are_in_the_paper_s_order_with_ours_and_then_all_others(rows):
    assert table_1(rows).detectors == ["baseline", "mlp", "knn", "image_statistics"]


def test_the_paper_s_number_stands_beside_the_method_that_is_the_paper_s(rows):
    (_, cells), *_ = table_1(rows).rows
    assert cells["mlp"].paper == pytest.approx(0.9707)
    assert cells["baseline"].paper == pytest.approx(0.5340)
    assert cells["knn"].paper is None
    for row in rows:
        row.metrics["mlp_all_ones"] = row.metrics["mlp"]  # the all-ones label alone, beside an MLP on several
    (_, cells), *_ = table_1(rows).rows
    assert cells["mlp_all_ones"].paper == pytest.approx(0.9707)
    assert cells["mlp"].paper is None
    second = dict(table_2(rows, TableSettings()).rows)
    assert second["AUROC", "CIFAR-10 (ResNet)", "svhn"]["mlp_all_ones"].paper == pytest.approx(0.9984)
    assert second["AUROC", "CIFAR-10 (ResNet)", "rain"]["mlp_all_ones"].paper is None


def test_the_paper_s_numbers_can_stand_beside_another_classifier_s(about):
    named = replace(about, network="ResNet-18", paper="CIFAR-10 DenseNet")
    metrics = {"mlp": {"auroc": [0.9]}}
    assert table_1([Row("one", named, "cw", True, metrics)]).rows[0][1]["mlp"].paper == pytest.approx(0.9705)
    plain = replace(about, network="ResNet-18")
    assert table_1([Row("one", plain, "cw", True, metrics)]).rows[0][1]["mlp"].paper is None


def test_best_is_the_highest_printed_mean_with_ties_and_without_the_audit(rows):
    (_, cells), *_ = table_1(rows).rows
    assert best_of(cells) == {"mlp", "knn"}


def test_a_single_seed_has_no_spread():
    assert Cell((0.5,)).spread is None
    assert number(Cell((0.5,))) == "50.00"


def numbers(text):
    return [
        (float(mean), float(spread)) for mean, spread in re.findall(r"(\d+\.\d\d) (?:±|\$\\pm\$) (\d+\.\d\d)", text)
    ]


def test_markdown_latex_and_csv_agree_and_are_the_mean_and_standard_deviation(rows):
    for table in (table_1(rows), table_2(rows, TableSettings())):
        expected = [
            (round(100 * statistics.fmean(SEEDS[name]), 2), round(100 * statistics.stdev(SEEDS[name]), 2))
            for _ in table.rows
            for name in table.detectors
        ]
        written = list(csv.DictReader(io.StringIO(csv_text([table]))))
        assert numbers(markdown(table)) == numbers(latex(table)) == expected
        assert [
            (round(100 * float(line["mean"]), 2), round(100 * float(line["spread"]), 2)) for line in written
        ] == expected
        bold = {line["detector"] for line in written if line["best"] == "1"}
        assert bold == {"mlp", "knn"}
        assert markdown(table).count("**") == 2 + 2 * 2 * len(table.rows)
        assert latex(table).count(r"\textbf") == 2 * len(table.rows)


def test_latex_escapes_what_latex_takes_for_commands(rows):
    assert r"C\&W" in latex(table_1(rows))
    assert not re.search(r"(?<!\\)[%#_]", latex(table_1(rows)))


def test_the_paper_s_layout_puts_the_methods_of_a_metric_between_slashes(rows):
    lines = paper_layout(table_2(rows, TableSettings()), TableSettings().columns).splitlines()
    assert lines[0].startswith("**Out-of-distribution detection.** Baseline / Ours.")
    lines = [re.sub(" +", " ", line) for line in lines]
    assert lines[2] == "| In | Out | Detection accuracy | AUROC | AUPR (anomalous positive) |"
    assert lines[4].startswith("| CIFAR-10 (ResNet) | svhn | 85.00 ± 7.07 [83.36] / **98.00 ± 1.41** [98.04] | 85.00")
    assert len(lines) == 6


def test_latex_has_the_paper_s_layout_too(rows):
    table, columns = table_2(rows, TableSettings()), TableSettings().columns
    text = paper_layout_latex(table, columns)
    assert r"In & Out & Detection accuracy & AUROC & AUPR (anomalous positive) \\" in text
    assert r"svhn & 85.00 $\pm$ 7.07 [83.36] / \textbf{98.00 $\pm$ 1.41} [98.04] & 85.00" in text
    assert numbers(text) == numbers(paper_layout(table, columns))


def test_the_summary_counts_who_is_best(rows):
    first, second = summary([table_1(rows), table_2(rows, TableSettings())])
    assert "Ours on 1 of 1 (C&W)" in first
    assert "kNN on all 2" in second
    rows[1] = replace(rows[1], metrics=rows[1].metrics | {"baseline": {"auroc": [1.0, 1.0]}})
    (second,) = summary([table_2(rows, TableSettings())])
    assert "Baseline on 1 of 2 (svhn); kNN on 1 of 2 (rain); Ours on 1 of 2 (rain)" in second


def test_a_row_head_that_repeats_is_shown_once():
    lines = Grid(["model", "source", "number"], [["a", "x", "1"], ["a", "y", "2"], ["b", "x", "3"]]).lines
    assert [[(cell.text, cell.rows) for cell in line] for line in lines] == [
        [("a", 2), ("x", 1), ("1", 1)],
        [("y", 1), ("2", 1)],
        [("b", 1), ("x", 1), ("3", 1)],
    ]
