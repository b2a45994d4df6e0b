"""Rows, columns, bold, the paper's numbers, and the three ways of writing them."""

import itertools
import re
import statistics
from dataclasses import replace

import pytest

from lightning_gradood.report import Experiment, TableSettings
from lightning_gradood.report.paper_tables import (
    METHODS,
    METRICS,
    best_of,
    csv_rows,
    overview,
    paper_number,
    table_1,
    table_2,
)

SEEDS = {"baseline": [0.9, 0.8], "mlp": [0.97, 0.99], "knn": [0.98, 0.98], "image_statistics": [1.0, 1.0]}


@pytest.fixture
def about(tmp_path):
    (tmp_path / "some.yaml").touch()
    return Experiment(str(tmp_path / "some.yaml"), "CIFAR-10", "ResNet")


@pytest.fixture
def rows(about):
    metrics = {name: dict.fromkeys(("auroc", "detection_accuracy", "aupr_out"), found) for name, found in SEEDS.items()}
    return [replace(about.row(source, source == "cw"), metrics=metrics) for source in ("cw", "svhn", "rain")]


def test_rows_and_columns_are_in_the_paper_s_order_and_others_behind(rows, about):
    made = [about.row(source, True) for source in ("rain", "pgd", "cw", "fgsm")]
    other = replace(about, network="other").row("bim", True)
    assert [heads[1] for heads, _ in table_1([*made, other]).lines] == ["fgsm", "cw", "pgd", "rain", "bim"]
    first, second = table_1(rows), table_2(rows, TableSettings())
    assert [heads for heads, _ in first.lines] == [("CIFAR-10 (ResNet)", "cw")]
    metrics = ("Detection accuracy", "AUROC", "AUPR (anomalous positive)")
    places = itertools.product(metrics, ["CIFAR-10 (ResNet)"], ["svhn", "rain"])
    assert [heads for heads, _ in second.lines] == list(places)
    (block,) = first.blocks.values()
    assert [row[0] for row in block.rows] == ["baseline", "mlp", "knn", "image_statistics"]
    assert [(heading, table.heads) for heading, table in second.blocks.items()] == [
        (f"{metric}, CIFAR-10 (ResNet)", ["detector", "svhn", "rain"]) for metric in metrics
    ]


def test_tables_have_at_most_six_columns_and_the_overview_starts_with_the_best(rows):
    blocks = table_1([replace(rows[0], source=f"rain_{number}") for number in range(15)]).blocks
    assert [len(table.heads) for table in blocks.values()] == [7, 7, 4]
    means = overview(rows[:2])
    assert [row[0] for row in means.rows] == ["mlp", "knn", "baseline", "image_statistics"]
    assert [[cell.best for cell in row[1:]] for row in means.rows] == [
        [name in ("mlp", "knn")] * 2 for name, *_ in means.rows
    ]


def test_the_paper_s_number_stands_beside_the_method_that_is_the_paper_s(rows, about):
    ((_, cells),) = table_1(rows).lines
    assert {name: cell.paper for name, cell in cells.items()} == pytest.approx(
        {"baseline": 0.5340, "mlp": 0.9707, "knn": None, "image_statistics": None}
    )
    for row in rows:
        row.metrics["mlp_all_ones"] = row.metrics["mlp"]  # the all-ones label alone, beside an MLP on several
    ((_, cells),) = table_1(rows).lines
    assert (cells["mlp_all_ones"].paper, cells["mlp"].paper) == (pytest.approx(0.9707), None)
    second = dict(table_2(rows, TableSettings()).lines)
    assert second["AUROC", "CIFAR-10 (ResNet)", "svhn"]["mlp_all_ones"].paper == pytest.approx(0.9984)
    assert second["AUROC", "CIFAR-10 (ResNet)", "rain"]["mlp_all_ones"].paper is None
    for paper, expected in (("CIFAR-10 DenseNet", pytest.approx(0.9705)), (None, None)):
        named = replace(about, network="ResNet-18", paper=paper)
        ((_, cells),) = table_1([replace(named.row("cw", True), metrics={"mlp": {"auroc": [0.9]}})]).lines
        assert cells["mlp"] == (0.9, None, 1, expected)


NUMBER = r"(\*\*|\\textbf{)?(\d+\.\d\d) (?:±|\$\\pm\$) (\d+\.\d\d)(?:\*\*|})?(?: \[(\d+\.\d\d)\])?"


def test_markdown_latex_and_csv_agree_and_the_best_is_the_highest_printed_mean_without_the_audit(rows):
    for table in (table_1(rows), table_2(rows, TableSettings())):
        assert all(best_of(cells) == {"mlp", "knn"} for _, cells in table.lines)
        expected = [
            (name in ("mlp", "knn"), f"{100 * statistics.fmean(SEEDS[name]):.2f}", f"{100 * spread:.2f}", paper)
            for _, cells in table.lines
            for name in SEEDS
            for spread in [statistics.stdev(SEEDS[name])]
            for paper in ["" if cells[name].paper is None else f"{100 * cells[name].paper:.2f}"]
        ]
        found = {
            text: [(bool(bold), *one) for bold, *one in re.findall(NUMBER, text)]
            for text in (table.markdown, table.latex)
        }
        assert sorted(found[table.markdown]) == sorted(expected)
        assert sorted(found[table.latex]) == sorted(
            (*one, "") for *one, _ in expected
        )  # whose own rows hold the paper's
        published = re.findall(r" {?\[}?(\d+\.\d\d)\]", table.latex)
        assert sorted(published) == sorted(paper for *_, paper in expected if paper)
        written = [
            (line["best"] == 1, *("" if line[name] is None else f"{100 * line[name]:.2f}" for name in NUMBERS))
            for line in csv_rows([table])
        ]
        assert written == expected


NUMBERS = ("mean", "spread", "paper")


def test_rows_of_latex_have_a_cell_for_each_column_and_what_it_takes_for_commands_is_escaped(rows):
    rows[0].metrics["a_b%{#}~^\\"] = {"auroc": [0.5, 0.5]}
    for one in (table_1(rows), table_2(rows, TableSettings())):
        cells = {len(re.split(r"(?<!\\)&", line)) for line in one.latex.splitlines() if line.endswith(r"\\")}
        assert cells == {len(table.heads) for table in one.blocks.values()}
        assert not re.search(r"(?<!\\)[%#_]|±|\*\*", one.latex)
        assert one.latex.count("{") == one.latex.count("}")


PAPER = {  # typed a second time from its text: the corners of both tables, and one number of other methods
    "CIFAR-10 ResNet fgsm mlp_all_ones auroc": 93.45,
    "CIFAR-10 ResNet semantic mlp_all_ones auroc": 90.15,
    "CIFAR-10 ResNet cw mlp_all_ones auroc": 97.07,
    "CIFAR-10 DenseNet iterll mlp_all_ones auroc": 98.53,
    "CIFAR-10 DenseNet fgsm mlp_all_ones auroc": 96.83,
    "CIFAR-10 DenseNet semantic mlp_all_ones auroc": 89.55,
    "CIFAR-10 ResNet svhn mlp_all_ones auroc": 99.84,
    "CIFAR-10 ResNet lsun_resize mlp_all_ones accuracy": 98.37,
    "SVHN ResNet cifar10 mlp_all_ones accuracy": 97.90,
    "SVHN ResNet tiny_imagenet_resize mlp_all_ones auroc": 99.77,
    "CIFAR-10 DenseNet tiny_imagenet_resize mlp_all_ones auroc": 96.44,
    "CIFAR-10 DenseNet svhn mlp_all_ones accuracy": 98.92,
    "SVHN DenseNet cifar10 mlp_all_ones auroc": 99.82,
    "SVHN DenseNet lsun_resize mlp_all_ones accuracy": 99.52,
    "CIFAR-10 ResNet fgsm mahalanobis_p_fe auroc": 99.95,
    "CIFAR-10 DenseNet semantic lid auroc": 81.41,
    "SVHN DenseNet lsun_resize energy aupr": 89.33,
    "CIFAR-10 ResNet svhn odin accuracy": 88.81,
}  # fmt: skip
UNKNOWN = [
    "Digits ResNet fgsm mlp_all_ones auroc",
    "SVHN ResNet fgsm mlp_all_ones auroc",
    "CIFAR-10 ResNet fgsm mlp_all_ones accuracy",
]


def test_the_paper_s_numbers_are_the_paper_s():
    assert {place: 100 * paper_number(*place.split()) for place in PAPER} == pytest.approx(PAPER)
    assert [place for place in UNKNOWN if paper_number(*place.split()) is not None] == []
    attacks, networks = ("fgsm", "bim", "cw", "pgd", "iterll", "semantic"), ("ResNet", "DenseNet")
    cells = [("CIFAR-10", *rest, "auroc") for rest in itertools.product(networks, attacks, (*METHODS, "mlp_all_ones"))]
    assert {method for *place, method, metric in cells if not paper_number(*place, method, metric)} == {
        "odin",
        "energy",
    }
    resized = itertools.product(("CIFAR-10", "SVHN"), ("tiny_imagenet_resize", "lsun_resize"))
    out = [("CIFAR-10", "svhn"), *resized, ("SVHN", "cifar10")]
    every = itertools.product(
        out, networks, ("baseline", "odin", "mahalanobis_p_fe", "energy", "mlp_all_ones"), METRICS
    )
    gaps = {(method, one) for (a, b), network, method, one in every if not paper_number(a, network, b, method, one)}
    assert gaps == {("energy", "accuracy")}
