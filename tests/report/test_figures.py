"""Figures show the numbers of scikit-learn and of the arrays they are given."""

import io
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sklearn_metrics

from lightning_gradood.report import ReportSettings
from lightning_gradood.report.figure_data import boxes
from lightning_gradood.report.figures import (
    attacked_samples,
    draw_figures,
    drawings,
    first_layer_figure,
    image_rows,
    norm_boxes,
    representative_layers,
)
from lightning_gradood.report.score_figures import (
    heat_map,
    precision_recall_curves,
    roc_curves,
    score_histograms,
    styles_of,
)
from lightning_gradood.report.tables import matrices

from .examples import LAYERS, NORMS, OUTCOMES, PLAIN, SAMPLES, crossed, outcome, run


def texts(labels):
    return [label.get_text() for label in labels]


def legend(place):
    """Names in the legend of an axes, or in that below the axes of a figure."""
    return texts((place.legends[0] if isinstance(place, Figure) else place.get_legend()).get_texts())


def rendered(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_roc_and_precision_recall_lines_are_those_of_scikit_learn():
    outcomes = OUTCOMES[:2]
    roc, curves = roc_curves("ROC", {one.source: one for one in outcomes}), precision_recall_curves(outcomes)
    linear, logarithmic = roc.axes
    assert (logarithmic.get_xscale(), logarithmic.get_xlim()) == ("log", (1e-3, 1.0))
    found = zip(
        linear.lines, logarithmic.lines, legend(roc), curves.axes[0].lines, legend(curves), outcomes, strict=True
    )
    for line, small, roc_label, steps, label, expected in found:
        test, (low, high) = expected.scores["test"], expected.auroc_interval
        false, true, _ = sklearn_metrics.roc_curve(test.labels, test.scores, drop_intermediate=False)
        np.testing.assert_array_equal(line.get_xydata(), np.stack([false, true], axis=1))
        for rate in (2e-3, 0.02, 0.3):
            assert small.get_ydata()[small.get_xdata() <= rate].max() == true[false <= rate].max()
        auroc = sklearn_metrics.roc_auc_score(test.labels, test.scores)
        assert roc_label == f"{expected.source}  {100 * auroc:.2f} [{100 * low:.1f}, {100 * high:.1f}]"
        area, (recall, precision) = sklearn_metrics.average_precision_score(test.labels, test.scores), steps.get_data()
        assert small.get_drawstyle() == steps.get_drawstyle() == "steps-post"
        assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(area)
        assert label == f"{expected.source}  {100 * area:.2f} (33)"


def test_histograms_share_scales_and_bins_and_hold_every_image_whatever_the_scores():
    outcomes = [outcome("svhn", gap=1.0), outcome("bim", gap=9.0), outcome("pgd", gap=2.0), outcome("cw", gap=3.0)]
    axes, *others = rendered(score_histograms(outcomes)).axes
    assert {one.get_xlim() for one in others} == {axes.get_xlim()}
    assert axes.get_title() == f"svhn: AUROC {100 * outcomes[0].metrics['test']['auroc']:.2f} %"
    assert legend(axes) == ["normal (60)", "svhn (30)", f"threshold {outcomes[0].threshold:.3g}"]
    assert set(axes.lines[0].get_xdata()) == {outcomes[0].threshold}
    easy, hard = outcome("easy", gap=9.0), outcome("hard", gap=0.0)
    many = score_histograms([*(replace(easy, source=f"{number}") for number in range(40)), hard])
    assert (len(many.axes), many.axes[0].get_title()[:5]) == (24, "hard:")  # and not for a minute
    rising = np.exp(np.linspace(0, 30, 90))
    for scores in (rising, -rising, np.zeros(90), 1000 + np.arange(90) / 90, np.append(np.zeros(89), 1e9)):
        strange = outcome()
        strange.scores["test"].scores[:] = scores
        object.__setattr__(strange, "threshold", float("inf"))  # which lies nowhere
        (axes,) = rendered(score_histograms([strange])).axes
        assert not axes.lines
        assert [sum(bar.get_height() for bar in bars) for bars in axes.containers] == pytest.approx([100, 100])


def test_boxes_are_the_quartiles_of_log10_of_layers_chosen_evenly():
    columns = representative_layers(LAYERS)
    chosen = [LAYERS[column] for column in columns]
    assert (len(chosen), chosen[0], chosen[-1]) == (12, "network.conv1.weight", "network.fc.weight")
    assert all("conv" in name for name in chosen[:-1])
    stages = [sum(f"layer{stage}." in name for name in chosen) for stage in (1, 2, 3, 4)]
    assert max(stages) - min(stages) <= 1
    small = {"0.weight 0.bias 1.weight 1.bias": [0, 2], "fc.weight fc.bias": [0], "scale": [0], "a.conv.weight b": [0]}
    assert {names: representative_layers(names.split()) for names in small} == small
    figure = rendered(norm_boxes(PLAIN["layer_norms"], "gradient"))
    (axes,) = figure.axes
    assert len(axes.patches) == 3 * len(columns)
    first = axes.patches[0].get_path().vertices[:, 1]
    values = np.log10(NORMS["normal"][:, columns[0]])
    assert [first.min(), first.max()] == pytest.approx(np.percentile(values, [25, 75]))
    low, high = np.percentile(values, [5, 95])
    inside = values[(values >= low) & (values <= high)]
    numbers = [inside.min(), *np.percentile(values, [25, 50, 75]), inside.max()]
    np.testing.assert_allclose(PLAIN["layer_norms"]["boxes"]["normal"][columns[0]], numbers)
    assert texts(axes.get_xticklabels())[:2] == ["network.conv1", "network.layer1.0.conv2"]
    assert legend(figure) == ["normal (40)", "svhn (40)", "places/lsun (40)"]
    zero = boxes({"normal": np.zeros((5, len(LAYERS)))}, LAYERS)
    assert np.max(zero["boxes"]["normal"]) == pytest.approx(-30)


def test_gradients_share_a_scale_and_say_their_norm():
    weights, names = np.ones((16, 3, 3, 3)), ("normal", "cw", "far/sky")
    gradients = {name: scale * weights for name, scale in zip(names, (0.5, 2.0, 1.0), strict=True)}
    images = dict.fromkeys(names, np.zeros((8, 8, 1), np.uint8))
    stored = {"name": "conv", "weights": weights, "gradients": gradients, "images": images}
    figure = first_layer_figure(stored, {"normal": "normal", "far: sky": "far/sky"})
    titles = {axes.get_title(): axes for axes in figure.axes if axes.get_title().startswith("gradient")}
    assert list(titles) == ["gradient, norm² 108", "gradient, norm² 432"]
    assert [axes.images[0].get_array()[1, 1, 0] for axes in titles.values()] == [0.75, 1.0]
    assert [axes.get_title() for axes in first_layer_figure(stored).axes][2::2] == ["normal", "cw", "far/sky"]


def pairs(change):
    """Two grey images of one shade and what a change makes of them."""
    clean = np.full((2, 8, 8, 1), 100, dtype=np.uint8)
    attacked = clean.copy()
    attacked[1, 2:4, 3:5] += change
    return {"clean": clean, "attacked": attacked, "predictions": np.array([("3", "3"), ("4", "9")])}


def test_images_are_shown_as_they_are_and_differences_as_many_times_as_is_said():
    figure = image_rows(SAMPLES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["normal", "svhn", "places/lsun"]
    for axes, images in zip(figure.axes, SAMPLES.values(), strict=True):
        assert np.array_equal(axes.images[0].get_array()[2:34, 36:68], images[1])  # 32 pixels and gaps of 2
    for change, factor in [(0, 100), (1, 100), (3, 20), (12, 10), (100, 1)]:
        (axes,) = rendered(attacked_samples({"cw": pairs(change)})).axes
        assert texts(axes.texts) == ["3", "3", f"× {factor}", "4", "9", f"× {factor}"]
        shown = np.asarray(axes.images[0].get_array())[2:10, :, 0].astype(int)
        assert (shown[:, 2:10] == 100).all()
        difference = shown[:, 52:60] - 128
        assert difference[2, 3] == factor * change
        assert np.count_nonzero(difference) == 4 * (change > 0)


def test_bars_are_the_aurocs_from_chance_or_from_zero_and_styles_are_distinct():
    figures = [
        drawings(run(found, arrays={}))["aurocs"]()
        for found in (OUTCOMES, [outcome("svhn", gap=-2.0), outcome("svhn", "energy", 2.0)])
    ]
    (axes,) = figures[0].axes
    aurocs = [100 * one.metrics["test"]["auroc"] for one in OUTCOMES]
    means = [np.mean(aurocs[:2]), np.mean(aurocs[2:])]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([*aurocs[:2], means[0], *aurocs[2:], means[1]])
    assert (axes.get_ylim()[0], texts(axes.get_xticklabels())) == (50, ["svhn", "places/lsun", "mean"])
    assert (figures[1].axes[0].get_ylim()[0], legend(figures[1])) == (0, ["mlp", "energy"])
    assert len(set(styles_of(["normal", *map(str, range(20))]).values())) == 21


def test_the_heat_map_writes_each_auroc_into_its_cell_in_letters_that_can_be_read():
    ((name, matrix),) = matrices(crossed(["svhn", "places/lsun", "bim"])).items()
    (axes,) = rendered(heat_map(name, matrix)).axes
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert texts(ticks) == ["svhn", "places/lsun", "bim"]
    assert texts(axes.texts) == [text for row in matrix.rows for text in row[1:-1]]
    (image,) = axes.images
    assert np.dot(image.cmap(image.norm(100.0))[:3], [0.299, 0.587, 0.114]) > 0.4


def test_many_detectors_are_a_map_of_numbers_the_best_first_rather_than_bars():
    found = [outcome(source, f"d{place}", gap=0.3 * place) for source in ("svhn", "bim") for place in range(1, 10)]
    (axes,) = rendered(drawings(run(found, arrays={}))["aurocs"]()).axes
    assert texts(axes.get_yticklabels()) == [f"d{place}" for place in range(9, 0, -1)]
    best = {one.source: f"{100 * one.metrics['test']['auroc']:.1f}" for one in found if one.detector == "d9"}
    assert texts(axes.texts)[:2] == [*best.values()]


def test_what_a_run_has_is_drawn_and_nothing_global_is_touched():
    settings = dict(mpl.rcParams)
    arrays = {
        "activation_norms": boxes({"normal": np.ones((5, 2)), "svhn": np.ones((5, 2))}, ["relu", "layer1"]),
        "attacked_samples": {"cw": pairs(5)},
        "extremes": {"mlp": {"normal, most anomalous": {"images": SAMPLES["normal"], "scores": np.arange(6.0)}}},
    }
    pictures = draw_figures(drawings(run(arrays=PLAIN | arrays)))
    kinds = [f"{kind}_{name}" for name in ("mlp", "energy") for kind in ("roc", "precision_recall", "scores")]
    others = ["layer_norms", "activation_norms", "samples", "attacked_samples", "extremes_mlp"]
    assert list(pictures) == ["aurocs", *kinds, *others]
    transferred = [one for one in crossed(["a/b c", "d"]) if one.detector == "mlp"]
    assert list(drawings(run(transferred, arrays={}))) == [
        "aurocs",
        "roc_mlp",
        "precision_recall_mlp",
        "scores_mlp",
        "matrix_mlp",
    ]
    assert "roc_a_b_c" in drawings(run([outcome("svhn", "a/b c")], arrays={}))
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_a_figure_that_fails_is_left_out_with_a_line_that_names_it(capsys):
    broken = run(arrays=PLAIN | {"first_layer": {"name": "conv1.weight"}})
    pictures = draw_figures(drawings(broken), ReportSettings(formats=["svg"], titles=False), broken.folder / "figures")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said == ["warning: the figure first_layer is left out: KeyError: 'images'"]
    assert {path.stem for path in (broken.folder / "figures").glob("*.svg")} == set(pictures) >= {"samples", "roc_mlp"}


def test_every_format_is_a_file_that_others_read_and_equal_runs_give_equal_files():
    one, two = (run(OUTCOMES[:1], arrays={"samples": SAMPLES}) for _ in range(2))
    with pytest.raises(TypeError):
        ReportSettings(["pdf"])  # it would be the table
    settings = ReportSettings(formats=["pdf", "svg", "png"])
    pictures = draw_figures(drawings(one), settings, one.folder / "figures")
    assert draw_figures(drawings(two), settings, two.folder / "figures") == pictures
    names = ["aurocs", "roc_mlp", "precision_recall_mlp", "scores_mlp", "samples"]
    folder = one.folder / "figures"
    paths = sorted(folder / f"{name}.{kind}" for name in names for kind in ("pdf", "svg", "png"))
    assert sorted(folder.iterdir()) == paths
    for path in paths:
        content = path.read_bytes()
        assert content == (two.folder / "figures" / path.name).read_bytes()
        if path.suffix == ".png":
            assert content == pictures[path.stem]
            assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 10
        elif path.suffix == ".svg":
            root = ElementTree.fromstring(content)
            assert root.findall(".//{http://www.w3.org/2000/svg}path")
            assert not root.findall(".//{http://www.w3.org/2000/svg}text")  # letters are paths: no font is needed
        else:
            assert content.startswith(b"%PDF-")
            assert b"/FontFile2" in content  # TrueType, embedded
            assert b"/Type3" not in content
