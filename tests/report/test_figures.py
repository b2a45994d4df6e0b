"""Figures show the numbers of scikit-learn and of the arrays they are given, and nothing covers anything."""

import io
import itertools
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sklearn_metrics

from lightning_gradood.report import ReportSettings
from lightning_gradood.report.figure_data import boxes
from lightning_gradood.report.figures import draw_figures, write_figures
from lightning_gradood.report.image_figures import attacked_samples, sample_sheet
from lightning_gradood.report.network_figures import (
    activation_norms,
    layer_norms,
    representative_layers,
    weight_gradients,
)
from lightning_gradood.report.score_figures import (
    CHANGED_COLOUR,
    detector_bars,
    heat_map,
    line_styles,
    precision_recall_curves,
    roc_by_source,
    roc_curves,
    score_histograms,
)
from lightning_gradood.report.tables import matrices

from .examples import LAYERS, NORMS, OUTCOMES, PLAIN, SAMPLES, crossed, outcome, run

SHOWN = {"svhn": "SVHN", "places/lsun": "places/lsun"}


def texts(labels):
    return [label.get_text() for label in labels]


def legend(place):
    """Names in the legend of an axes, or in that below the axes of a figure."""
    return texts((place.legends[0] if isinstance(place, Figure) else place.get_legend()).get_texts())


def rendered(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_roc_lines_and_their_insets_are_those_of_scikit_learn():
    outcomes = OUTCOMES[:2]
    figure = roc_by_source(outcomes)
    (axes,) = figure.axes
    (inset,) = axes.child_axes
    assert (inset.get_xscale(), inset.get_xlim()) == ("log", (1e-3, 1.0))
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    for line, small, label, expected in zip(lines, inset.lines, legend(figure), outcomes, strict=True):
        test, (low, high) = expected.scores["test"], expected.auroc_interval
        false, true, _ = sklearn_metrics.roc_curve(test.labels, test.scores, drop_intermediate=False)
        np.testing.assert_array_equal(line.get_xydata(), np.stack([false, true], axis=1))
        auroc = sklearn_metrics.roc_auc_score(test.labels, test.scores)
        assert label == f"{SHOWN[expected.source]}  {100 * auroc:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        assert small.get_drawstyle() == "steps-post"
        for rate in (2e-3, 0.02, 0.3):
            assert small.get_ydata()[small.get_xdata() <= rate].max() == true[false <= rate].max()
    several = roc_curves("ROC on SVHN", {"MLP": OUTCOMES[0], "Energy": OUTCOMES[2]})
    assert [name.split()[0] for name in legend(several)] == ["MLP", "Energy"]


@pytest.mark.parametrize(("gap", "beside"), [(2.0, False), (-2.0, True)])
def test_the_inset_covers_no_line(gap, beside):
    figure = rendered(roc_by_source([outcome(gap=gap)]))
    (axes,) = figure.axes
    covered = axes.child_axes[0].get_tightbbox()
    assert (covered.x0 > axes.get_window_extent().x1) == beside
    assert figure.bbox.x0 <= axes.get_tightbbox().x0
    assert covered.x1 <= figure.bbox.x1
    (line,) = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert not any(covered.contains(x, y) for x, y in line.get_transform().transform(line.get_xydata()))


def test_precision_recall_steps_enclose_the_average_precision_of_scikit_learn():
    outcomes = OUTCOMES[:2]
    figure = precision_recall_curves(outcomes)
    for line, label, expected in zip(figure.axes[0].lines, legend(figure), outcomes, strict=True):
        test = expected.scores["test"]
        area = sklearn_metrics.average_precision_score(test.labels, test.scores)
        recall, precision = line.get_data()
        assert line.get_drawstyle() == "steps-post"
        assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(area)
        assert label == f"{SHOWN[expected.source]}  {100 * area:.2f} (33)"
    strange = outcome()
    test = strange.scores["test"]
    test.scores[:] = np.where(test.labels == 0, np.arange(90) % 7, 5.0)
    test.scores[0] = 9.0  # the highest score is a normal image's: precision is 0 at recall 0
    recall, precision = precision_recall_curves([strange]).axes[0].lines[0].get_data()
    assert (recall[-1], precision[-1], np.sum(recall == 1)) == (0.0, 0.0, 1)
    assert precision[0] == pytest.approx(30 / (30 + np.sum(test.scores[test.labels == 0] >= 5)))


def test_histograms_hold_every_image_share_scales_and_bins_and_legends_stand_above_the_bars():
    outcomes = [outcome("svhn", gap=1.0), outcome("bim", gap=9.0), outcome("pgd", gap=2.0), outcome("cw", gap=3.0)]
    figure = rendered(score_histograms(outcomes))
    assert len(figure.axes) == 4  # of six places
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    bars = [[bar.get_x() for bar in bars] for axes in figure.axes for bars in axes.containers]
    assert all(one == bars[0] for one in bars)
    scores = np.concatenate([one.scores["test"].scores for one in outcomes])
    low, high = figure.axes[0].get_xlim()
    assert low <= scores.min() < scores.max() <= high
    for axes, expected, shown in zip(figure.axes, outcomes, ("SVHN", "BIM", "PGD", "C&W"), strict=True):
        heights = [sum(bar.get_height() for bar in bars) for bars in axes.containers]
        assert heights == pytest.approx([100, 100])
        assert legend(axes) == ["normal (60)", f"{shown} (30)", f"threshold {expected.threshold:.3g}"]
        (threshold,) = axes.lines
        assert set(threshold.get_xdata()) == {expected.threshold}
        assert axes.get_title() == f"{shown}: AUROC {100 * expected.metrics['test']['auroc']:.2f} %"
        box = axes.get_legend().get_window_extent()
        assert box.y0 > max(bar.get_window_extent().y1 for bars in axes.containers for bar in bars)
        assert axes.get_window_extent().y0 < threshold.get_window_extent().y1 < box.y0


def test_histograms_take_any_scores_and_thresholds():
    rising = np.exp(np.linspace(0, 30, 90))
    with_scale = [
        (np.linspace(-3, 3, 90), "linear"), (rising, "log"), (-rising, "asinh"), (np.zeros(90), "linear"),
        (np.append(np.linspace(-1, 1, 89), 1e9), "asinh"), (np.append(np.zeros(88), [1.0, 2.0]), "linear"),
    ]  # fmt: skip
    for scores, scale in with_scale:
        strange = outcome()
        strange.scores["test"].scores[:] = scores
        for threshold in (-1.0, float("inf")):  # which a logarithmic axis cannot show, and which lies nowhere
            object.__setattr__(strange, "threshold", threshold)
            (axes,) = rendered(score_histograms([strange])).axes
            assert axes.get_xscale() == scale
            assert [sum(bar.get_height() for bar in bars) for bars in axes.containers] == pytest.approx([100, 100])
        assert not axes.lines


def test_boxes_are_the_quartiles_of_log10_of_layers_chosen_evenly():
    columns = representative_layers(LAYERS)
    chosen = [LAYERS[column] for column in columns]
    assert (len(chosen), chosen[0], chosen[-1]) == (12, "network.conv1.weight", "network.fc.weight")
    assert all("conv" in name for name in chosen[:-1])
    stages = [sum(f"layer{stage}." in name for name in chosen) for stage in (1, 2, 3, 4)]
    assert max(stages) - min(stages) <= 1
    small = {"0.weight 0.bias 1.weight 1.bias": [0, 2], "fc.weight fc.bias": [0], "scale": [0], "a.conv.weight b": [0]}
    assert {names: representative_layers(names.split()) for names in small} == small
    figure = layer_norms(PLAIN["layer_norms"])
    (axes,) = figure.axes
    assert len(axes.patches) == 3 * len(columns)
    first = axes.patches[0].get_path().vertices[:, 1]
    values = np.log10(NORMS["normal"][:, columns[0]])
    assert [first.min(), first.max()] == pytest.approx(np.percentile(values, [25, 75]))
    low, high = np.percentile(values, [5, 95])
    inside = values[(values >= low) & (values <= high)]
    numbers = [inside.min(), *np.percentile(values, [25, 50, 75]), inside.max()]
    np.testing.assert_allclose(PLAIN["layer_norms"]["boxes"]["normal"][columns[0]], numbers)
    assert texts(axes.get_xticklabels())[:2] == ["conv1", "layer1.0.conv2"]
    assert legend(figure) == ["normal (40)", "SVHN (40)", "places/lsun (40)"]
    zero = rendered(layer_norms(boxes({"normal": np.zeros((5, len(LAYERS)))}, LAYERS)))
    assert zero.axes[0].patches[0].get_path().vertices[:, 1].max() == pytest.approx(-30)
    norms = {name: np.ones((647, 2)) for name in ("normal", *(f"source_{number}" for number in range(8)))}
    figure = rendered(activation_norms(boxes(norms, ["relu", "layer1"])))
    box = figure.legends[0].get_window_extent()  # of few layers and many sources
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert texts(figure.axes[0].get_xticklabels()) == ["relu", "layer1"]


def test_gradients_share_a_scale_and_say_their_norm():
    weights = np.ones((16, 3, 3, 3))
    images = {name: np.zeros((8, 8, 3), np.uint8) for name in ("normal", "far: sky")}
    figure = weight_gradients("conv", weights, {"normal": 0.5 * weights, "far: sky": weights}, images)
    titles = {axes.get_title(): axes for axes in figure.axes if axes.get_title().startswith("gradient")}
    assert list(titles) == ["gradient, norm² 108", "gradient, norm² 432"]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in titles.values()] == [0.75, 1.0]


def test_the_sheet_shows_the_pixels_and_names_stay_inside():
    figure = sample_sheet(SAMPLES)
    assert [axes.get_ylabel() for axes in figure.axes] == ["normal", "SVHN", "places/lsun"]
    for axes, images in zip(figure.axes, SAMPLES.values(), strict=True):
        (shown,) = axes.images
        assert shown.get_interpolation() == "nearest"
        assert np.array_equal(shown.get_array()[:, 34:66], images[1])  # 32 pixels and a gap of 2 before it
    grey, rgb = np.full((2, 8, 8, 1), 100, dtype=np.uint8), np.zeros((5, 8, 8, 3), dtype=np.uint8)
    figure = sample_sheet({"normal": grey, "W" * 22: rgb})
    figure.canvas.draw()
    shown = figure.axes[0].images[0]
    assert (shown.get_array().shape, shown.get_clim()) == ((8, 5 * 9 - 1), (0, 255))
    assert min(axes.yaxis.label.get_window_extent().x0 for axes in figure.axes) >= 0


def pairs(change, predictions=(("3", "3"), ("4", "9"))):
    """Two grey images of one shade and what a change makes of them."""
    clean = np.full((2, 8, 8, 1), 100, dtype=np.uint8)
    attacked = clean.copy()
    attacked[1, 2:4, 3:5] += change
    return {"clean": clean, "attacked": attacked, "predictions": np.array(predictions)}


def test_attacked_samples_show_the_difference_as_many_times_as_their_head_says():
    for change, factor in [(0, 100), (1, 100), (3, 20), (12, 10), (100, 1)]:
        (axes,) = rendered(attacked_samples({"cw": pairs(change)})).axes
        heads = [text for text in axes.texts if not text.get_text().startswith("predicted")]
        assert texts(heads) == ["clean", "C&W", f"difference × {factor}"]
        shown = np.asarray(axes.images[0].get_array())
        assert (shown[:8, :8] == 100).all()
        left, top = int(heads[2].get_position()[0] - 4), shown.shape[0] // 2
        difference = shown[top : top + 8, left : left + 8, 0].astype(int) - 128
        assert difference[2, 3] == factor * change
        assert np.count_nonzero(difference) == 4 * (change > 0)


def test_attacked_samples_say_both_predictions_mark_those_that_changed_and_no_words_overlap():
    long = [("automobile", "wheelbarrow of wood"), ("airplane", "airplane")]
    figure = rendered(attacked_samples({name: pairs(5, long) for name in ("cw", "bim", "pgd", "builtin_semantic")}))
    for axes in figure.axes[:4]:
        said = [text for text in axes.texts if text.get_text().startswith("predicted")]
        short = ["automobile", "wheelbarro…", "airplane", "airplane"]
        assert texts(said) == [f"predicted {word}" for word in short]
        assert [text.get_color() == CHANGED_COLOUR for text in said] == [False, True, False, False]
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        assert all(box.y1 <= figure.bbox.y1 for box in boxes)


def test_the_heat_map_writes_each_auroc_into_its_cell_in_letters_that_can_be_read():
    outcomes = crossed(["svhn", "places/lsun", "bim"])
    (matrix,) = matrices(outcomes).values()
    axes, _ = rendered(heat_map(matrix)).axes
    image = axes.images[0]
    assert np.asarray(image.get_array()) == pytest.approx(np.maximum(matrix.aurocs, 0.5))
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert texts(ticks) == ["SVHN", "places/lsun", "BIM"]
    assert (axes.get_xlabel(), axes.get_ylabel(), len(axes.patches)) == ("tested on", "trained on", 3)
    matrix.aurocs[:] = np.linspace(0.3, 1.0, 9).reshape(3, 3)
    written = heat_map(matrix).axes[0].texts
    assert len(written) == 9
    for text in written:
        column, row = text.get_position()
        assert text.get_text() == f"{100 * matrix.aurocs[row, column]:.1f}"
        shade = np.dot(image.cmap(image.norm(max(matrix.aurocs[row, column], 0.5)))[:3], [0.299, 0.587, 0.114])
        assert abs(shade - (1.0 if text.get_color() == "white" else 0.0)) > 0.4
    (gap,) = matrices([one for one in outcomes if (one.source, one.trained_on) != ("bim", "svhn")]).values()
    assert np.isnan(gap.aurocs[0, 2])
    assert gap.transfer[0] == gap.aurocs[0, 1]
    assert len(heat_map(gap).axes[0].texts) == 8


def test_colours_are_distinct_and_the_same_in_every_figure():
    sources = [f"source {i}" for i in range(20)]
    styles = line_styles(["normal", *sources])
    assert len(set(styles.values())) == 21
    assert line_styles(sources) == styles
    (axes,) = layer_norms(boxes({"normal": np.ones((3, 2)), "svhn": np.ones((3, 2))}, ["a.weight", "b.weight"])).axes
    (roc,) = roc_by_source([outcome()]).axes
    assert matplotlib.colors.same_color(axes.patches[-1].get_facecolor(), roc.lines[-1].get_color())


def test_bars_are_the_aurocs_from_chance_or_from_zero():
    figure = detector_bars(OUTCOMES)
    (axes,) = figure.axes
    aurocs = [100 * one.metrics["test"]["auroc"] for one in OUTCOMES]
    means = [np.mean(aurocs[:2]), np.mean(aurocs[2:])]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([*aurocs[:2], means[0], *aurocs[2:], means[1]])
    assert (axes.get_ylim()[0], texts(axes.get_xticklabels())) == (50, ["svhn", "places/lsun", "mean"])
    worse = detector_bars([outcome("svhn", gap=-2.0), outcome("svhn", "energy", 2.0)])
    assert worse.axes[0].get_ylim()[0] == 0
    assert legend(worse) == ["mlp", "energy"]


def test_what_a_run_has_is_drawn_and_nothing_global_is_touched():
    settings, names, weights = dict(mpl.rcParams), ("normal", "cw", "svhn", "lsun"), np.ones((4, 3, 3, 3))
    arrays = {
        "activation_norms": boxes({"normal": np.ones((5, 2)), "svhn": np.ones((5, 2))}, ["relu", "layer1"]),
        "first_layer": {
            "name": "conv1.weight",
            "weights": weights,
            "gradients": dict.fromkeys(names, weights),
            "images": dict.fromkeys(names, np.zeros((8, 8, 3), np.uint8)),
        },
        "attacked_samples": {"cw": pairs(5)},
    }
    figures = draw_figures(run(arrays=PLAIN | arrays))
    kinds = [f"{kind}_{name}" for name in ("mlp", "energy") for kind in ("roc", "precision_recall", "scores")]
    others = ["layer_norms", "activation_norms", "first_layer", "samples", "attacked_samples"]
    assert list(figures) == ["aurocs", *kinds, *others]
    titles = [axes.get_title() for axes in figures["first_layer"].axes]
    assert titles[2::2] == ["normal", "C&W", "LSUN"]  # an image of the first anomaly and one of the last
    assert figures["roc_mlp"].get_suptitle() == "ROC of MLP, test split"
    transferred = [one for one in crossed(["a/b c", "d"]) if one.detector == "mlp"]
    plain = draw_figures(run(transferred, arrays={}))
    assert list(plain) == ["aurocs", "roc_mlp", "precision_recall_mlp", "scores_mlp", "matrix_mlp"]
    assert [axes.get_title()[:5] for axes in plain["scores_mlp"].axes] == ["a/b c", "d: AU"]
    assert "roc_a_b_c" in draw_figures(run([outcome("svhn", "a/b c")], arrays={}))
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_a_figure_that_fails_is_left_out_with_a_line_that_names_it(capsys):
    broken = run(arrays=PLAIN | {"first_layer": {"name": "conv1.weight"}})
    pictures = write_figures(broken, ReportSettings(["svg"], titles=False))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said == ["warning: the figure first_layer is left out: KeyError: 'images'"]
    assert {"samples", "roc_mlp"} <= pictures.keys()
    assert {path.stem for path in (broken.folder / "figures").glob("*.svg")} == set(pictures)
    assert {picture[:4] for picture in pictures.values()} == {b"\x89PNG"}


def test_every_format_is_a_file_that_others_read_and_equal_runs_give_equal_files():
    one, two = (run(OUTCOMES[:1], arrays={"samples": SAMPLES}) for _ in range(2))
    pictures = write_figures(one, ReportSettings(["pdf", "svg", "png"]))
    names = ["aurocs", "roc_mlp", "precision_recall_mlp", "scores_mlp", "samples"]
    folder = one.folder / "figures"
    paths = sorted(folder / f"{name}.{kind}" for name in names for kind in ("pdf", "svg", "png"))
    assert sorted(folder.iterdir()) == paths
    assert {name: (folder / f"{name}.png").read_bytes() for name in names} == pictures
    assert write_figures(two, ReportSettings(["pdf", "svg"])) == pictures
    for path in (two.folder / "figures").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    for path in paths:
        content = path.read_bytes()
        if path.suffix == ".png":
            pixels = np.asarray(Image.open(path).convert("L"))
            assert min(pixels.shape) > 150
            assert len(np.unique(pixels)) > 10
        elif path.suffix == ".svg":
            root = ElementTree.fromstring(content)
            assert root.findall(".//{http://www.w3.org/2000/svg}path")
            assert not root.findall(".//{http://www.w3.org/2000/svg}text")  # letters are paths: no font is needed
        else:
            assert content.startswith(b"%PDF-")
            assert content.rstrip().endswith(b"%%EOF")
            assert b"/FontFile2" in content  # TrueType, embedded
            assert b"/Type3" not in content
