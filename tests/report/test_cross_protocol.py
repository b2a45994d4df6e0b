"""A matrix says which anomalies teach a detector to find which others, as text, as a figure and under its own keys."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from lightning_gradood.report import (
    DetectionReport,
    console_table,
    draw_figures,
    heat_map,
    matrices,
    matrix_table,
    results_table,
    write_figures,
)
from lightning_gradood.report.results import results_document
from lightning_gradood.report.tables import curve_rows, detection_scalars

from .examples import outcome

SOURCES = ["svhn", "places/lsun", "bim"]


@pytest.fixture
def outcomes():
    """Each source against each, as `gather_outcomes` sorts them, and a one-class detector."""
    found = []
    for tested, source in enumerate(SOURCES):
        for trained, other in enumerate(SOURCES):
            gap = 3.0 if tested == trained else 1.0 + 0.2 * trained - 0.9 * tested
            found.append(dataclasses.replace(outcome(source, "mlp", gap, seed=3 * tested + trained), trained_on=other))
        found.append(dataclasses.replace(outcome(source, "energy", 1.0, seed=tested), trained_on="normal"))
    return found


def test_rows_are_trained_on_and_columns_tested_on(outcomes):
    found = matrices(outcomes)
    assert list(found) == ["mlp"]
    matrix = found["mlp"]
    assert matrix.sources == SOURCES
    for item in outcomes:
        if item.detector == "mlp":
            place = SOURCES.index(item.trained_on), SOURCES.index(item.source)
            assert matrix.aurocs[place] == item.metrics["test"]["auroc"]
    means = [np.mean([matrix.aurocs[row, column] for column in range(3) if column != row]) for row in range(3)]
    assert matrix.transfer == pytest.approx(means)


def test_the_text_shows_the_matrix_below_the_table_of_the_diagonal(outcomes):
    text = console_table(outcomes)
    table, below = text.split("\n\n")
    assert below == matrix_table(matrices(outcomes)["mlp"])
    header, *rows = [line.split() for line in below.splitlines()[1:]]
    assert header == ["trained", "on", *SOURCES, "others"]
    matrix = matrices(outcomes)["mlp"]
    for source, row, values, mean in zip(SOURCES, rows, matrix.aurocs, matrix.transfer, strict=True):
        assert row == [source, *(f"{100 * value:.1f}" for value in [*values, mean])]
    assert len({len(line) for line in below.splitlines()[1:]}) == 1
    body = [line.split()[:3] for line in table.splitlines()[2:] if line.startswith(tuple(SOURCES))]
    assert body == [
        *([source, "mlp", source] for source in SOURCES),
        *([source, "energy", "normal"] for source in SOURCES),
    ]


def test_there_is_no_matrix_where_nothing_was_transferred(outcomes):
    rest = [item for item in outcomes if not item.transferred]
    assert matrices(rest) == {}
    assert "\n\n" not in console_table(rest)
    assert not [name for name in draw_figures(DetectionReport("x", rest)) if name.startswith("matrix")]


def test_the_table_says_what_was_trained_on_only_where_it_is_another_source():
    one, other = outcome("svhn"), outcome("bim")
    known = [dataclasses.replace(one, trained_on="svhn"), dataclasses.replace(other, trained_on="bim")]
    assert console_table(known) == console_table([one, other])
    assert "trained on" not in console_table(known)
    unknown = [dataclasses.replace(item, trained_on="others") for item in (one, other)]
    lines = console_table(unknown).splitlines()
    assert lines[0].split()[:4] == ["source", "detector", "trained", "on"]
    assert [line.split()[2] for line in lines[2:4]] == ["others", "others"]
    (mean,) = [line for line in lines if line.startswith("mean ")]
    assert mean.split()[:3] == ["mean", "mlp", "others"]


def test_the_heat_map_writes_each_auroc_into_its_cell(outcomes):
    matrix = matrices(outcomes)["mlp"]
    figure = heat_map(matrix)
    axes, _ = figure.axes
    for text in axes.texts:
        column, row = text.get_position()
        assert text.get_text() == f"{100 * matrix.aurocs[row, column]:.1f}"
    assert len(axes.texts) == 9
    assert [label.get_text() for label in axes.get_xticklabels()] == ["SVHN", "places/lsun", "BIM"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SVHN", "places/lsun", "BIM"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tested on", "trained on")
    shown = np.asarray(axes.images[0].get_array())
    assert shown == pytest.approx(np.maximum(matrix.aurocs, 0.5))
    assert len(axes.patches) == 3
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    assert np.asarray(Image.open(file).convert("L")).std() > 10


def test_letters_can_be_read_on_every_shade(outcomes):
    matrix = dataclasses.replace(matrices(outcomes)["mlp"], aurocs=np.linspace(0.3, 1.0, 9).reshape(3, 3))
    axes, _ = heat_map(matrix).axes
    image = axes.images[0]
    for text in axes.texts:
        column, row = text.get_position()
        shade = np.dot(image.cmap(image.norm(max(matrix.aurocs[row, column], 0.5)))[:3], [0.299, 0.587, 0.114])
        assert abs(shade - (1.0 if text.get_color() == "white" else 0.0)) > 0.4


def test_a_cell_without_a_number_stays_empty(outcomes):
    incomplete = [item for item in outcomes if (item.source, item.trained_on) != ("bim", "svhn")]
    matrix = matrices(incomplete)["mlp"]
    assert np.isnan(matrix.aurocs[0, 2])
    assert matrix.transfer[0] == matrix.aurocs[0, 1]
    assert len(heat_map(matrix).axes[0].texts) == 8


def test_figures_are_those_of_the_diagonal_and_the_matrix(outcomes, tmp_path):
    paths = {path.name for path in write_figures(DetectionReport("x", outcomes), tmp_path)}
    assert paths == {
        f"{kind}_{detector}.png" for kind in ("roc", "precision_recall", "scores") for detector in ("mlp", "energy")
    } | {"matrix_mlp.png"}


def test_every_number_has_a_key_of_its_own(outcomes):
    scalars = detection_scalars(outcomes)
    for item in outcomes:
        name = item.detector if item.trained_on in (item.source, "normal") else f"{item.detector}@{item.trained_on}"
        assert scalars[f"detection/{item.source}/{name}/test/auroc"] == item.metrics["test"]["auroc"]
    diagonal = [item.metrics["val"]["auroc"] for item in outcomes if item.trained_on == item.source]
    assert scalars["detection/mean/mlp/val/auroc"] == pytest.approx(np.mean(diagonal))
    away = [item.metrics["val"]["auroc"] for item in outcomes if item.trained_on == "bim" != item.source]
    assert scalars["detection/mean/mlp@bim/val/auroc"] == pytest.approx(np.mean(away))
    table = results_table(outcomes)
    names = list(zip(*(table[name] for name in ("source", "trained_on", "detector", "split", "metric")), strict=True))
    assert len(set(names)) == len(names)
    assert not [key for _, values in curve_rows(outcomes) for key in values if "@" in key]


def test_the_results_say_what_was_trained_on(outcomes):
    written = results_document(DetectionReport("x", outcomes))["outcomes"]
    assert [(item["detector"], item["trained_on"]) for item in written] == [
        (o.detector, o.trained_on) for o in outcomes
    ]
