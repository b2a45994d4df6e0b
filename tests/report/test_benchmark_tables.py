"""Rows, columns, bold, the paper's numbers, and the three ways of writing them."""

import csv
import io
import itertools
import re
import statistics
from dataclasses import replace

import pytest

from lightning_gradood.report import Experiment, TableSettings, paper_number
from lightning_gradood.report.paper_tables import (
    METHODS_1,
    METHODS_2,
    METRICS_2,
    OverSeeds,
    best_of,
    full_layout,
    paper_layout,
    summary,
    table_1,
    table_2,
    tables_csv,
)

SEEDS = {"baseline": [0.9, 0.8], "mlp": [0.97, 0.99], "knn": [0.98, 0.98], "image_statistics": [1.0, 1.0]}


@pytest.fixture
def about(tmp_path):
    (tmp_path / "some.yaml").touch()
    return Experiment(str(tmp_path / "some.yaml"), "CIFAR-10", "ResNet")


@pytest.fixture
def rows(about):
    metrics = {name: dict.fromkeys(("auroc", "detection_accuracy", "aupr_out"), found) for name, found in SEEDS.items()}
    return [replace(row_of(about, source, source == "cw"), metrics=metrics) for source in ("cw", "svhn", "rain")]


def row_of(about, source, made=True, name="one"):
    """A row without numbers."""
    return about.row(name, source, {"class_path": "an.Attack"} if made else {})


def test_rows_and_columns_are_in_the_paper_s_order_and_others_behind(rows, about):
    made = [row_of(about, source) for source in ("rain", "pgd", "cw", "fgsm")]
    heads = [heads[1] for heads, _ in table_1([*made, row_of(about, "bim", name="two")]).rows]
    assert heads == ["FGSM", "C&W", "PGD", "rain", "BIM"]
    first, second = table_1(rows), table_2(rows, TableSettings())
    assert [heads for heads, _ in first.rows] == [("CIFAR-10 (ResNet)", "C&W")]
    metrics = ("Detection accuracy", "AUROC", "AUPR (anomalous positive)")
    places = itertools.product(metrics, ["CIFAR-10 (ResNet)"], ["svhn", "rain"])
    assert [heads for heads, _ in second.rows] == list(places)
    assert first.detectors == ["baseline", "mlp", "knn", "image_statistics"]


def test_the_paper_s_number_stands_beside_the_method_that_is_the_paper_s(rows, about):
    (_, cells), *_ = table_1(rows).rows
    assert {name: cell.paper for name, cell in cells.items()} == pytest.approx(
        {"baseline": 0.5340, "mlp": 0.9707, "knn": None, "image_statistics": None}
    )
    for row in rows:
        row.metrics["mlp_all_ones"] = row.metrics["mlp"]  # the all-ones label alone, beside an MLP on several
    (_, cells), *_ = table_1(rows).rows
    assert (cells["mlp_all_ones"].paper, cells["mlp"].paper) == (pytest.approx(0.9707), None)
    second = dict(table_2(rows, TableSettings()).rows)
    assert second["AUROC", "CIFAR-10 (ResNet)", "svhn"]["mlp_all_ones"].paper == pytest.approx(0.9984)
    assert second["AUROC", "CIFAR-10 (ResNet)", "rain"]["mlp_all_ones"].paper is None
    for paper, expected in (("CIFAR-10 DenseNet", pytest.approx(0.9705)), (None, None)):
        named = replace(about, network="ResNet-18", paper=paper)
        ((_, cells),) = table_1([replace(row_of(named, "cw"), metrics={"mlp": {"auroc": [0.9]}})]).rows
        assert cells["mlp"].paper == expected


def test_best_is_the_highest_printed_mean_with_ties_and_without_the_audit(rows):
    (_, cells), *_ = table_1(rows).rows
    assert best_of(cells) == {"mlp", "knn"}
    first, second = summary(table_1(rows)), summary(table_2(rows, TableSettings()))
    assert "Ours on 1 of 1 (C&W)" in first
    assert "kNN on all 2" in second
    rows[1] = replace(rows[1], metrics=rows[1].metrics | {"baseline": {"auroc": [1.0, 1.0]}})
    second = summary(table_2(rows, TableSettings()))
    assert "Baseline on 1 of 2 (svhn); kNN on 1 of 2 (rain); Ours on 1 of 2 (rain)" in second


NUMBER = r"(\*\*|\\textbf{)?(\d+\.\d\d) (?:±|\$\\pm\$) (\d+\.\d\d)(?:\*\*|})?(?: \[(\d+\.\d\d)\])?"


def numbers(text):
    """Whether it is bold, mean, spread and the paper's, of each number in a table."""
    found = re.findall(NUMBER, text)
    return [(bool(bold), mean, spread, paper) for bold, mean, spread, paper in found]


def test_markdown_latex_and_csv_agree_and_are_the_mean_and_standard_deviation(rows):
    for table in (table_1(rows), table_2(rows, TableSettings())):
        expected = [
            (name in ("mlp", "knn"), f"{100 * statistics.fmean(SEEDS[name]):.2f}", f"{100 * spread:.2f}", paper)
            for _, cells in table.rows
            for name in table.detectors
            for spread in [statistics.stdev(SEEDS[name])]
            for paper in ["" if cells[name].paper is None else f"{100 * cells[name].paper:.2f}"]
        ]
        text = full_layout(table)
        assert numbers(text.markdown) == numbers(text.latex) == expected
        written = [
            (line["best"] == "1", *(text and f"{100 * float(text):.2f}" for text in values))
            for line in csv.DictReader(io.StringIO(tables_csv([table])))
            for values in [[line[name] for name in ("mean", "spread", "paper")]]
        ]
        assert written == expected
    assert (OverSeeds((0.5,)).spread, OverSeeds((0.5,)).text) == (None, "50.00")


def test_the_paper_s_layout_puts_the_methods_of_a_metric_between_slashes(rows):
    text = paper_layout(table_2(rows, TableSettings()), TableSettings().columns)
    lines = [re.sub(" +", " ", line) for line in text.markdown.splitlines()]
    assert lines[0].startswith("**Out-of-distribution detection.** Baseline / Ours.")
    assert lines[2] == "| In | Out | Detection accuracy | AUROC | AUPR (anomalous positive) |"
    assert lines[4].startswith("| CIFAR-10 (ResNet) | svhn | 85.00 ± 7.07 [83.36] / **98.00 ± 1.41** [98.04] | 85.00")
    assert len(lines) == 6
    assert numbers(text.latex) == numbers(text.markdown)


def test_rows_of_latex_have_a_cell_for_each_column_and_what_it_takes_for_commands_is_escaped(rows):
    rows[0].metrics["a_b%{#}~^\\|"] = {"auroc": [0.5, 0.5]}
    first, full = full_layout(table_1(rows)), table_2(rows, TableSettings())
    for layout in (first, full_layout(full), paper_layout(full, TableSettings().columns)):
        text = layout.latex
        cells = {len(re.split(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r"\\")}
        assert cells == {len(layout.table.heads)}
        assert not re.search(r"(?<!\\)[%#_]|±|\*\*", text)
        assert text.count("{") == text.count("}")
    assert r"C\&W" in first.latex
    assert r"a_b%{#}~^\\|" in first.markdown


PAPER = {  # typed a second time from its text: the corners of both tables, and one number of other methods
    "CIFAR-10 ResNet FGSM ours auroc": 93.45, "CIFAR-10 ResNet Semantic ours auroc": 90.15,
    "CIFAR-10 ResNet C&W ours auroc": 97.07, "CIFAR-10 DenseNet IterLL ours auroc": 98.53,
    "CIFAR-10 DenseNet FGSM ours auroc": 96.83, "CIFAR-10 DenseNet Semantic ours auroc": 89.55,
    "CIFAR-10 ResNet SVHN ours auroc": 99.84, "CIFAR-10 ResNet LSUN ours accuracy": 98.37,
    "SVHN ResNet CIFAR-10 ours accuracy": 97.90, "SVHN ResNet ImageNet ours auroc": 99.77,
    "CIFAR-10 DenseNet ImageNet ours auroc": 96.44, "CIFAR-10 DenseNet SVHN ours accuracy": 98.92,
    "SVHN DenseNet CIFAR-10 ours auroc": 99.82, "SVHN DenseNet LSUN ours accuracy": 99.52,
    "CIFAR-10 ResNet FGSM mahalanobis_p_fe auroc": 99.95, "CIFAR-10 DenseNet Semantic lid auroc": 81.41,
    "SVHN DenseNet LSUN energy aupr": 89.33, "CIFAR-10 ResNet SVHN odin accuracy": 88.81,
}  # fmt: skip
UNKNOWN = [
    "Digits ResNet FGSM ours auroc", "SVHN ResNet FGSM ours auroc", "CIFAR-10 ResNet-20 SVHN ours auroc",
    "CIFAR-10 ResNet Places ours auroc", "CIFAR-10 ResNet FGSM ours accuracy",
]  # fmt: skip


def test_the_paper_s_numbers_are_the_paper_s():
    assert {place: 100 * paper_number(*place.split()) for place in PAPER} == pytest.approx(PAPER)
    assert [place for place in UNKNOWN if paper_number(*place.split()) is not None] == []
    networks, attacks = ("ResNet", "DenseNet"), ("FGSM", "BIM", "C&W", "PGD", "IterLL", "Semantic")
    assert all(paper_number("CIFAR-10", n, a, m, "auroc") for n in networks for a in attacks for m in METHODS_1)
    out = [("CIFAR-10", "SVHN"), *itertools.product(("CIFAR-10", "SVHN"), ("ImageNet", "LSUN")), ("SVHN", "CIFAR-10")]
    every = itertools.product(out, networks, METHODS_2, METRICS_2)
    gaps = {(method, one) for (a, b), network, method, one in every if not paper_number(a, network, b, method, one)}
    assert gaps == {("energy", "accuracy")}
