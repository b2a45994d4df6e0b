"""Figures of scores: ROC and precision-recall curves, histograms, and AUROC of sources against sources as a heat map.

All share colours that people with colour blindness can tell apart, and touch no global state of matplotlib.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightning_gradood.evaluation import Outcome
from lightning_gradood.metrics import auroc, precision_recall_curve, roc_curve
from lightning_gradood.records import NORMAL
from lightning_gradood.report.tables import Matrix, percent

# Okabe & Ito (2008), the palette that readers with any common colour blindness can tell apart, without its yellow (too
# pale for lines on white) and its black (normal images are dark grey).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.")
NORMAL_COLOUR = "#555555"
GRID_COLOUR = "#DDDDDD"


def new_figure(width: float, height: float) -> Figure:
    """Make a figure with an Agg canvas of its own: nothing is registered with pyplot, so nothing has to be closed.

    Args:
        width: in inches.
        height: in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_styles(sources: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give every source its colour and dash pattern, the normal images grey.

    Args:
        sources: names in the order of the report; the same order gives the same styles in every figure.

    Returns:
        Source to (colour, dash); pairs are distinct for up to 24 anomaly sources.
    """
    anomalies = [source for source in dict.fromkeys(sources) if source != NORMAL]
    styles = {
        source: (_COLOURS[rank % len(_COLOURS)], _DASHES[rank // len(_COLOURS) % len(_DASHES)])
        for rank, source in enumerate(anomalies)
    }
    return {NORMAL: (NORMAL_COLOUR, "-"), **styles}


def tidy(axes: Axes) -> None:
    """Leave only what carries information: two spines, a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color=GRID_COLOUR, linewidth=0.6)


def roc_curves(outcomes: "Sequence[Outcome]") -> Figure:
    """Draw true against false positives on the test split, anomalous as the positive class.

    Args:
        outcomes: of one detector, one per source.

    Returns:
        One axes: a line per source, labelled with its AUROC and interval in %, and the diagonal of chance.
    """
    figure, axes = _square(f"ROC of {outcomes[0].detector}, test split")
    styles = line_styles([outcome.source for outcome in outcomes])
    axes.plot([0, 1], [0, 1], color=NORMAL_COLOUR, linewidth=0.8, linestyle=(0, (4, 4)), label="_chance")
    for outcome in outcomes:
        test = outcome.scores["test"]
        false_positives, true_positives = roc_curve(test.scores, test.labels)[:2]
        low, high = (percent(bound) for bound in outcome.auroc_interval)
        label = f"{outcome.source}  {percent(outcome.metrics['test']['auroc'])} [{low}, {high}]"
        colour, dash = styles[outcome.source]
        axes.plot(false_positives, true_positives, color=colour, linestyle=dash, linewidth=1.8, label=label)
    axes.set_xlabel("normal images taken for anomalous")
    axes.set_ylabel("anomalous images found")
    axes.legend(loc="lower right", fontsize=8, title="AUROC in %, 95 % interval", title_fontsize=8)
    return figure


def precision_recall_curves(outcomes: "Sequence[Outcome]") -> Figure:
    """Draw precision against recall on the test split, anomalous as the positive class.

    Args:
        outcomes: of one detector, one per source.

    Returns:
        One axes: a step line per source, labelled with its average precision (AUPR-out) and its prevalence in %.
    """
    figure, axes = _square(f"Precision and recall of {outcomes[0].detector}, test split")
    styles = line_styles([outcome.source for outcome in outcomes])
    for outcome in outcomes:
        test = outcome.scores["test"]
        precision, recall = precision_recall_curve(test.scores, test.labels)[:2]
        prevalence = f"{100 * test.labels.mean():.0f}"
        label = f"{outcome.source}  {percent(outcome.metrics['test']['aupr_out'])} ({prevalence})"
        colour, dash = styles[outcome.source]
        # Steps, not slopes: average precision is the area under the steps.
        axes.step(recall, precision, where="post", color=colour, linestyle=dash, linewidth=1.8, label=label)
    axes.set_xlabel("recall: anomalous images found")
    axes.set_ylabel("precision: alarms that are right")
    axes.legend(loc="lower left", fontsize=8, title="AUPR-out in % (share of anomalous images in %)", title_fontsize=8)
    return figure


def _square(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(5.4, 5.4)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    tidy(axes)
    return figure, axes


_FEWEST_BINS, _MOST_BINS = 12, 50
_MOST_COLUMNS = 3
# Distances have tails that would press everything else into one bin: if all scores span this many times what the middle
# half spans (a normal distribution: 6), the axis is logarithmic, or linear around zero and logarithmic outside.
_HEAVY_TAIL = 20.0
_HEADROOM = 1.35  # for the legend, above the highest bar


def score_histograms(outcomes: "Sequence[Outcome]") -> Figure:
    """Draw the test scores of normal and anomalous images, one axes per source.

    Args:
        outcomes: of one detector, one per source.

    Returns:
        One axes per source: both classes as shares that sum to 100 %, so that unequal numbers of images compare, and
        the threshold chosen on `val`. Every score is inside the axes; scores with heavy tails get a log or asinh axis.
    """
    columns = min(len(outcomes), _MOST_COLUMNS)
    rows = math.ceil(len(outcomes) / columns)
    figure = new_figure(max(4.0 * columns, 5.0), 2.8 * rows + 0.6)
    styles = line_styles([outcome.source for outcome in outcomes])
    for place, outcome in enumerate(outcomes, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw(axes, outcome, styles[outcome.source][0])
    figure.suptitle(f"Scores of {outcomes[0].detector}, test split (higher = more anomalous)", fontsize=11)
    figure.supylabel("images of the class, %", fontsize=9)
    return figure


def _draw(axes: Axes, outcome: Outcome, colour: str) -> None:
    test = outcome.scores["test"]
    edges = _scaled_edges(axes, test.scores, _bins(test.labels))
    highest = 0.0
    for name, label, shade in (("normal", 0, NORMAL_COLOUR), (outcome.source, 1, colour)):
        scores = test.scores[test.labels == label]
        weights = np.full(len(scores), 100 / max(len(scores), 1))
        text = f"{name} ({len(scores)})"
        bars, *_ = axes.hist(scores, bins=edges.tolist(), weights=weights, color=shade, alpha=0.55, label=text)
        highest = max(highest, float(np.max(bars)))
    if math.isfinite(outcome.threshold):
        axes.axvline(outcome.threshold, color="black", linewidth=1.2, linestyle="--", label="threshold")
    axes.set_ylim(0, _HEADROOM * highest)
    axes.set_title(f"{outcome.source}: AUROC {percent(outcome.metrics['test']['auroc'])} %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, ncols=3, loc="upper center", columnspacing=1.0, handlelength=1.4)
    tidy(axes)


def _bins(labels: np.ndarray) -> int:
    """Choose so many bins that those of the smaller class are seldom empty where it lies."""
    smaller = min(int(np.sum(labels == 0)), int(np.sum(labels == 1)))
    return int(np.clip(3 * math.sqrt(smaller), _FEWEST_BINS, _MOST_BINS))


def _scaled_edges(axes: Axes, scores: np.ndarray, bins: int) -> np.ndarray:
    """Choose the axis' scale and bins of equal width on it, float64 [bins + 1]."""
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return np.linspace(low - 0.5, high + 0.5, bins + 1)
    quarter, three_quarters = np.percentile(scores, (25, 75))
    middle = float(three_quarters - quarter)
    if middle == 0 or high - low < _HEAVY_TAIL * middle:
        return np.linspace(low, high, bins + 1)
    if low > 0:
        axes.set_xscale("log")
        edges = np.geomspace(low, high, bins + 1)
    else:
        axes.set_xscale("asinh", linear_width=middle)
        edges = middle * np.sinh(np.linspace(np.arcsinh(low / middle), np.arcsinh(high / middle), bins + 1))
    edges[[0, -1]] = low, high  # rounding must not push the extremes out
    return edges


_CELL, _MARGIN = 0.72, 2.4  # inches
_CHANCE = 0.5
_DARK = 0.62  # share of the colour scale above which letters are white


def heat_map(matrix: Matrix) -> Figure:
    """Draw the AUROC of one detector for each source of training (rows) and of testing (columns).

    Args:
        matrix: what to draw.

    Returns:
        Two axes: cells from white (chance, or less) to dark blue (all told apart), each with its AUROC in %, those trained
        and tested on the same source framed; and the scale.
    """
    count = len(matrix.sources)
    figure = new_figure(_CELL * count + _MARGIN + 0.8, _CELL * count + _MARGIN)
    axes = figure.add_subplot()
    image = axes.imshow(np.maximum(matrix.aurocs, _CHANCE), cmap="Blues", vmin=_CHANCE, vmax=1.0)
    for row, column in np.ndindex(count, count):
        value = matrix.aurocs[row, column]
        if np.isnan(value):
            continue
        colour = "white" if (value - _CHANCE) / (1 - _CHANCE) > _DARK else "black"
        axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    for place in range(count):
        axes.add_patch(
            Rectangle((place - 0.47, place - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=1.4)
        )
    axes.set_xticks(range(count), matrix.sources, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(count), matrix.sources, fontsize=9)
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"AUROC of {matrix.detector} in %, test split", fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    bar.ax.set_yticklabels(["≤ 50", "60", "70", "80", "90", "100"], fontsize=8)
    bar.outline.set_visible(False)
    return figure


_PER_COLUMN = 9  # names in the legend


def method_rocs(source: str, scores: "Mapping[str, Mapping[str, object]]") -> Figure:
    """Draw true against false positives of every detector, anomalous as the positive class.

    Args:
        source: its name, for the title.
        scores: detector to `labels` int64 [n] and `scores` float64 [n].

    Returns:
        One axes: a line per detector, labelled with its AUROC in %, and the diagonal of chance.
    """
    figure = new_figure(5.4, 6.4)
    axes = figure.add_subplot()
    axes.set_title(f"ROC on {source}, test split", fontsize=11)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    tidy(axes)
    axes.plot([0, 1], [0, 1], color=NORMAL_COLOUR, linewidth=0.8, linestyle=(0, (4, 4)), label="_chance")
    styles = line_styles(list(scores))
    for detector, one in scores.items():
        false_positives, true_positives = roc_curve(one["scores"], one["labels"])[:2]  # type: ignore[arg-type]
        colour, dash = styles[detector]
        label = f"{detector} {percent(auroc(one['scores'], one['labels']))}"  # type: ignore[arg-type]
        axes.plot(false_positives, true_positives, color=colour, linestyle=dash, linewidth=1.6, label=label)
    axes.set_xlabel("normal images taken for anomalous")
    axes.set_ylabel("anomalous images found")
    columns = 2 if len(scores) <= 2 * _PER_COLUMN else 3
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False, title="AUROC in %")
    return figure
