import dataclasses
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

from lightning_gradood.core import Refusal
from lightning_gradood.report import (
    ImagePairs,
    ReportSettings,
    attacked_samples,
    draw_figures,
    layer_norms,
    precision_recall_curves,
    roc_curves,
    sample_sheet,
    score_histograms,
    write_figures,
)
from lightning_gradood.report.network_figures import representative_layers
from lightning_gradood.report.plots import CHANGED_COLOUR, line_styles

from .examples import LAYERS, outcome, report


def _legend(place):
    """Names in the legend of an axes, or in that below the axes of a figure."""
    legend = place.legends[0] if isinstance(place, Figure) else place.get_legend()
    return [text.get_text() for text in legend.get_texts()]


def _render(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)


SHOWN = {"svhn": "SVHN", "places/lsun": "places/lsun"}


def test_roc_lines_are_those_of_scikit_learn_and_named_with_their_area():
    outcomes = report().outcomes[:2]
    figure = roc_curves(outcomes)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert len(lines) == 2
    for line, label, expected in zip(lines, _legend(figure), outcomes, strict=True):
        test = expected.scores["test"]
        false, true, _ = sklearn_metrics.roc_curve(test.labels, test.scores, drop_intermediate=False)
        np.testing.assert_array_equal(line.get_xydata(), np.stack([false, true], axis=1))
        auroc = sklearn_metrics.roc_auc_score(test.labels, test.scores)
        low, high = expected.auroc_interval
        assert label == f"{SHOWN[expected.source]}  {100 * auroc:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false positive rate", "true positive rate")


def test_the_inset_has_the_best_true_positive_rate_at_each_small_false_positive_rate():
    outcomes = report().outcomes[:2]
    (axes,) = roc_curves(outcomes).axes
    (inset,) = axes.child_axes
    assert (inset.get_xscale(), inset.get_xlim()) == ("log", (1e-3, 1.0))
    assert len(inset.lines) == 2
    for line, expected in zip(inset.lines, outcomes, strict=True):
        test = expected.scores["test"]
        false, true, _ = sklearn_metrics.roc_curve(test.labels, test.scores)
        assert line.get_drawstyle() == "steps-post"
        for rate in (2e-3, 0.02, 0.3):
            shown = line.get_ydata()[line.get_xdata() <= rate].max()
            assert shown == true[false <= rate].max()


@pytest.mark.parametrize(("gap", "beside"), [(2.0, False), (-2.0, True)])
def test_the_inset_covers_no_line(gap, beside):
    figure = roc_curves([outcome(gap=gap)])
    _render(figure)
    (axes,) = figure.axes
    (inset,) = axes.child_axes
    covered = inset.get_tightbbox()
    assert (covered.x0 > axes.get_window_extent().x1) == beside
    assert figure.bbox.x0 <= axes.get_tightbbox().x0
    assert covered.x1 <= figure.bbox.x1
    (line,) = [line for line in axes.lines if not line.get_label().startswith("_")]
    points = line.get_transform().transform(line.get_xydata())
    assert not any(covered.contains(x, y) for x, y in points)


def test_precision_recall_steps_enclose_the_average_precision_of_scikit_learn():
    outcomes = report().outcomes[:2]
    figure = precision_recall_curves(outcomes)
    (axes,) = figure.axes
    for line, label, expected in zip(axes.lines, _legend(figure), outcomes, strict=True):
        test = expected.scores["test"]
        area = sklearn_metrics.average_precision_score(test.labels, test.scores)
        recall, precision = line.get_xdata(), line.get_ydata()
        assert line.get_drawstyle() == "steps-post"
        assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(area)
        assert label == f"{SHOWN[expected.source]}  {100 * area:.2f} (33)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")


def test_precision_recall_has_no_point_without_a_threshold_and_no_tail_at_full_recall():
    strange = outcome()
    test = strange.scores["test"]
    test.scores[:] = np.where(test.labels == 0, np.arange(90) % 7, 5.0)
    test.scores[0] = 9.0  # the highest score is a normal image's: precision is 0 at recall 0
    (line,) = precision_recall_curves([strange]).axes[0].lines
    recall, precision = line.get_xdata(), line.get_ydata()
    assert (recall[-1], precision[-1]) == (0.0, 0.0)
    assert np.sum(recall == 1) == 1
    normal_above = np.sum(test.scores[test.labels == 0] >= 5)
    assert precision[0] == pytest.approx(30 / (30 + normal_above))


def test_histograms_hold_every_image_of_both_classes():
    outcomes = report().outcomes[:2]
    figure = score_histograms(outcomes)
    assert len(figure.axes) == 2
    for axes, expected in zip(figure.axes, outcomes, strict=True):
        normal, anomalous = axes.containers
        assert sum(bar.get_height() for bar in normal) == pytest.approx(100)
        assert sum(bar.get_height() for bar in anomalous) == pytest.approx(100)
        shown = SHOWN[expected.source]
        assert _legend(axes) == ["normal (60)", f"{shown} (30)", f"threshold {expected.threshold:.3g}"]
        (threshold,) = axes.lines
        assert set(threshold.get_xdata()) == {expected.threshold}
        assert axes.get_title() == f"{shown}: AUROC {100 * expected.metrics['test']['auroc']:.2f} %"
    assert figure.get_supxlabel() == "score (higher = more anomalous)"
    assert figure.get_supylabel() == "images of the class, %"


def test_histograms_share_scales_and_bins_and_their_legends_stand_above_the_bars():
    outcomes = [outcome("svhn", gap=1.0), outcome("bim", gap=9.0), outcome("pgd", gap=2.0), outcome("cw", gap=3.0)]
    figure = score_histograms(outcomes)
    assert len(figure.axes) == 4  # of six places
    _render(figure)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    bars = [[bar.get_x() for bar in bars] for axes in figure.axes for bars in axes.containers]
    assert all(one == bars[0] for one in bars)
    scores = np.concatenate([one.scores["test"].scores for one in outcomes])
    low, high = figure.axes[0].get_xlim()
    assert low <= scores.min() < scores.max() <= high
    for axes in figure.axes:
        box = axes.get_legend().get_window_extent()
        highest = max(bar.get_window_extent().y1 for bars in axes.containers for bar in bars)
        assert box.y0 > highest
        assert axes.get_window_extent().y0 < axes.lines[0].get_window_extent().y1 < box.y0
    labelled = [axes for axes in figure.axes if any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks())]
    assert labelled == figure.axes[1:]  # the lowest of each column


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        (np.linspace(-3, 3, 90), "linear"),
        (np.exp(np.linspace(0, 30, 90)), "log"),
        (-np.exp(np.linspace(0, 30, 90)), "asinh"),
        (np.append(np.linspace(-1, 1, 89), 1e9), "asinh"),
        (np.append(np.zeros(88), [1.0, 2.0]), "linear"),
        (np.zeros(90), "linear"),
    ],
)
def test_histograms_take_any_scores(scores, scale):
    strange = outcome()
    strange.scores["test"].scores[:] = scores
    figure = score_histograms([strange])
    (axes,) = figure.axes
    assert axes.get_xscale() == scale
    assert [sum(bar.get_height() for bar in bars) for bars in axes.containers] == pytest.approx([100, 100])
    _render(figure)


def test_histograms_survive_a_threshold_that_a_logarithmic_axis_cannot_show():
    strange = outcome()
    strange.scores["test"].scores[:] = np.exp(np.linspace(0, 30, 90))
    object.__setattr__(strange, "threshold", -1.0)
    _render(score_histograms([strange]))


def test_histograms_survive_a_threshold_that_lies_nowhere():
    nowhere = outcome()
    object.__setattr__(nowhere, "threshold", float("inf"))
    (axes,) = score_histograms([nowhere]).axes
    assert not axes.lines


def test_boxes_are_the_quartiles_of_log10():
    example = report()
    figure = layer_norms(example.norms, LAYERS)
    (axes,) = figure.axes
    columns = representative_layers(LAYERS)
    assert len(axes.patches) == 3 * len(columns)
    first = axes.patches[0].get_path().vertices[:, 1]
    values = np.log10(example.norms["normal"][:, columns[0]])
    assert [first.min(), first.max()] == pytest.approx(np.percentile(values, [25, 75]))
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["conv1", "layer1.0.conv2"]
    assert _legend(figure) == ["normal (40)", "SVHN (40)", "places/lsun (40)"]


def test_boxes_take_norms_that_are_zero():
    figure = layer_norms({"normal": np.zeros((5, len(LAYERS)))}, LAYERS)
    _render(figure)
    assert figure.axes[0].patches[0].get_path().vertices[:, 1].max() == pytest.approx(-30)


def test_layers_are_chosen_evenly_and_end_with_the_last():
    chosen = [LAYERS[column] for column in representative_layers(LAYERS)]
    assert len(chosen) == 12
    assert chosen[0] == "network.conv1.weight"
    assert chosen[-1] == "network.fc.weight"
    assert all("conv" in name for name in chosen[:-1])
    stages = [sum(f"layer{stage}." in name for name in chosen) for stage in (1, 2, 3, 4)]
    assert max(stages) - min(stages) <= 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0.weight", "0.bias", "1.weight", "1.bias"], [0, 2]),
        (["fc.weight", "fc.bias"], [0]),
        (["scale"], [0]),
        (["net.conv.weight", "net.conv.bias"], [0]),
    ],
)
def test_layers_of_small_networks(names, expected):
    assert representative_layers(names) == expected
    _render(layer_norms({"normal": np.ones((3, len(names)))}, names))


def test_the_sheet_shows_the_pixels():
    samples = report().samples
    figure = sample_sheet(samples)
    assert [axes.get_ylabel() for axes in figure.axes] == ["normal", "SVHN", "places/lsun"]
    for axes, images in zip(figure.axes, samples.values(), strict=True):
        (shown,) = axes.images
        assert shown.get_interpolation() == "nearest"
        assert np.array_equal(shown.get_array()[:, 34:66], images[1])  # 32 pixels and a gap of 2 before it


def test_the_sheet_takes_grey_images_and_rows_of_different_length():
    grey = np.full((2, 8, 8, 1), 100, dtype=np.uint8)
    figure = sample_sheet({"normal": grey, "noise": np.zeros((5, 8, 8, 3), dtype=np.uint8)})
    shown = figure.axes[0].images[0]
    assert shown.get_array().shape == (8, 5 * 9 - 1)
    assert shown.get_clim() == (0, 255)
    _render(figure)


def test_names_of_rows_stay_inside_the_sheet():
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    figure = sample_sheet({"normal": images, "WWWWWWWWWWWWWWWWWWWWWW": images})
    figure.canvas.draw()
    left = min(axes.yaxis.label.get_window_extent().x0 for axes in figure.axes)
    assert left >= 0


def _pairs(change, predictions=(("3", "3"), ("4", "9"))):
    """Two grey images of one shade and what a change makes of them."""
    clean = np.full((2, 8, 8, 1), 100, dtype=np.uint8)
    attacked = clean.copy()
    attacked[1, 2:4, 3:5] += change
    return ImagePairs(clean, attacked, list(predictions))


@pytest.mark.parametrize(("change", "factor"), [(0, 100), (1, 100), (3, 20), (12, 10), (100, 1)])
def test_attacked_samples_show_the_difference_as_many_times_as_their_head_says(change, factor):
    figure = attacked_samples({"cw": _pairs(change)})
    _render(figure)
    (axes,) = figure.axes
    heads = [text for text in axes.texts if not text.get_text().startswith("predicted")]
    assert [text.get_text() for text in heads] == ["clean", "C&W", f"difference × {factor}"]
    shown = np.asarray(axes.images[0].get_array())
    assert (shown[:8, :8] == 100).all()
    left = heads[2].get_position()[0] - 4
    top = shown.shape[0] // 2
    difference = shown[top : top + 8, int(left) : int(left) + 8, 0].astype(int) - 128
    assert difference[2, 3] == factor * change
    assert np.count_nonzero(difference) == 4 * (change > 0)


def test_attacked_samples_say_both_predictions_and_mark_those_that_changed():
    figure = attacked_samples({name: _pairs(5) for name in ("cw", "bim", "pgd", "mine")})
    assert [axes.texts[1].get_text() for axes in figure.axes[:4]] == ["C&W", "BIM", "PGD", "mine"]
    for axes in figure.axes[:4]:
        words = [text for text in axes.texts if text.get_text().startswith("predicted")]
        assert [text.get_text() for text in words] == [f"predicted {word}" for word in "3349"]
        assert [text.get_color() == CHANGED_COLOUR for text in words] == [False, False, False, True]


def test_words_of_attacked_samples_do_not_overlap():
    long = [("automobile", "wheelbarrow of wood"), ("airplane", "automobile")]
    figure = attacked_samples({name: _pairs(5, long) for name in ("cw", "bim", "pgd", "builtin_semantic")})
    _render(figure)
    for axes in figure.axes[:4]:
        boxes = [text.get_window_extent() for text in axes.texts]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
    assert all(text.get_window_extent().y1 <= figure.bbox.y1 for axes in figure.axes for text in axes.texts)


def test_what_a_run_has_is_drawn():
    whole = dataclasses.replace(
        report(),
        pairs={"cw": _pairs(5)},
        features={"normal": np.ones((5, 4)), "svhn": np.ones((5, 4))},
        feature_names=["relu.0", "relu.1", "layer1.0", "layer1.1"],
        first_layer={
            "name": "conv1.weight",
            "weights": np.ones((4, 3, 3, 3)),
            "gradients": {name: np.ones((4, 3, 3, 3)) for name in ("normal", "cw", "svhn", "lsun")},
            "images": {name: np.zeros((8, 8, 3), np.uint8) for name in ("normal", "cw", "svhn", "lsun")},
        },
    )
    figures = draw_figures(whole)
    assert {"activation_norms", "first_layer", "samples", "attacked_samples"} <= set(figures)
    titles = [axes.get_title() for axes in figures["first_layer"].axes]
    assert titles[2::2] == ["normal", "C&W", "LSUN"]  # an image of the first anomaly and one of the last


def test_colours_are_distinct_and_the_same_in_every_figure():
    sources = [f"source {i}" for i in range(20)]
    styles = line_styles(["normal", *sources])
    assert len(set(styles.values())) == 21
    shown = list(styles.values())[1:]
    for (colour, dash), (next_colour, next_dash) in itertools.pairwise(shown):
        assert colour != next_colour
        assert dash != next_dash
    assert line_styles(sources) == styles
    (axes,) = layer_norms({"normal": np.ones((3, 2)), "svhn": np.ones((3, 2))}, ["a.weight", "b.weight"]).axes
    box = axes.patches[-1].get_facecolor()
    (roc,) = roc_curves([outcome()]).axes
    assert matplotlib.colors.same_color(box, roc.lines[-1].get_color())


def test_files_are_readable_pictures_that_are_not_blank(tmp_path):
    paths = write_figures(report(), tmp_path)
    expected = [f"{kind}_{name}" for name in ("mlp", "energy") for kind in ("roc", "precision_recall", "scores")]
    assert [path.stem for path in paths] == [*expected, "layer_norms", "samples"]
    assert all(path.parent == tmp_path / "figures" for path in paths)
    for path in paths:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 200
        assert len(np.unique(pixels)) > 10


def test_every_format_is_a_file_that_others_read(tmp_path):
    paths = write_figures(report(), tmp_path, ReportSettings(["png", "pdf", "svg"]))
    assert len(paths) == 3 * len({path.stem for path in paths})
    for path in paths:
        if path.suffix == ".png":
            Image.open(path).verify()
        elif path.suffix == ".svg":
            root = ElementTree.parse(path).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert root.findall(".//{http://www.w3.org/2000/svg}path")
            assert not root.findall(".//{http://www.w3.org/2000/svg}text")  # letters are paths: no font is needed
        else:
            content = path.read_bytes()
            assert content.startswith(b"%PDF-")
            assert content.rstrip().endswith(b"%%EOF")
            assert b"/FontFile2" in content  # TrueType, embedded
            assert b"/Type3" not in content


def test_equal_reports_give_equal_vector_files(tmp_path):
    for folder in ("one", "two"):
        write_figures(report(), tmp_path / folder, ReportSettings(["pdf", "svg"]))
    names = sorted(path.name for path in (tmp_path / "one" / "figures").iterdir())
    for name in names:
        assert (tmp_path / "one/figures" / name).read_bytes() == (tmp_path / "two/figures" / name).read_bytes()


def test_figures_for_papers_have_no_title_and_panels_keep_theirs():
    with_titles, without = draw_figures(report()), draw_figures(report(), titles=False)
    assert with_titles["roc_mlp"].get_suptitle() == "ROC of MLP, test split"
    assert with_titles["layer_norms"].get_suptitle().startswith("Gradient norms")
    assert {figure.get_suptitle() for figure in without.values()} == {""}
    assert [axes.get_title()[:4] for axes in without["scores_mlp"].axes] == ["SVHN", "plac"]


@pytest.mark.parametrize("formats", [[], ["png", "png"], ["gif"]])
def test_other_formats_are_refused(formats):
    with pytest.raises(Refusal, match=r"`report.formats` should list one or more of png, pdf, svg, each once"):
        ReportSettings(formats)


def test_a_report_without_norms_and_images_has_no_such_figures():
    names = draw_figures(type(report())("x", [outcome("svhn", "a/b c")]))
    assert list(names) == ["roc_a_b_c", "precision_recall_a_b_c", "scores_a_b_c"]


def test_nothing_global_is_touched():
    settings = dict(mpl.rcParams)
    draw_figures(report())
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings
