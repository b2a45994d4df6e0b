"""Figures of scores: ROC and precision-recall curves, histograms, heat maps and bars of AUROCs.

Colours are distinguishable with common colour blindness; no global state of matplotlib is touched.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightning_gradood.evaluation import Outcome
from lightning_gradood.records import NORMAL
from lightning_gradood.report.names import detector_title, source_titles
from lightning_gradood.report.tables import MEAN, Matrix, not_transferred, percent

# Okabe & Ito's (2008) colour-blind-safe palette without yellow (too pale on white) and black (normal is grey).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.")
NORMAL_COLOUR = "#555555"
GRID_COLOUR = "#DDDDDD"
CHANGED_COLOUR = "#D55E00"


def new_figure(width: float, height: float) -> Figure:
    """A figure, in inches, with its own Agg canvas: it is not registered with pyplot and need not be closed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_styles(sources: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Map each source to (colour, dash), normal images grey; distinct for up to 24 anomaly sources.

    Neighbours differ in both colour and dash.
    """
    anomalies = [source for source in dict.fromkeys(sources) if source != NORMAL]
    turn = math.lcm(len(_COLOURS), len(_DASHES))  # after so many the pairs repeat
    styles = {
        source: (_COLOURS[rank % len(_COLOURS)], _DASHES[(rank + rank // turn) % len(_DASHES)])
        for rank, source in enumerate(anomalies)
    }
    return {NORMAL: (NORMAL_COLOUR, "-"), **styles}


def tidy(axes: Axes) -> None:
    """Remove two spines and put a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color=GRID_COLOUR, linewidth=0.6)


def roc_curves(title: str, outcomes: Mapping[str, Outcome]) -> Figure:
    """Draw a test ROC of each outcome by its name, anomalous as the positive class, with AUROC and interval in %.

    The inset shows false positive rates from 0.001 on, on a logarithmic axis.
    """
    from sklearn.metrics import roc_curve  # takes half a second, which most commands do without

    figure, axes = _square(f"{title}, test split")
    curves = {}
    for name, outcome in outcomes.items():
        test = outcome.scores["test"]
        low, high = (percent(bound) for bound in outcome.auroc_interval)
        label = f"{name}  {percent(outcome.metrics['test']['auroc'])} [{low}, {high}]"
        curves[label] = roc_curve(test.labels, test.scores, drop_intermediate=False)[:2]
    _draw_rocs(figure, axes, curves, list(line_styles([*outcomes]).values())[1:])
    _name_lines(figure, "AUROC in %, 95 % interval", len(outcomes))
    return figure


def roc_by_source(outcomes: Sequence[Outcome]) -> Figure:
    """Draw `roc_curves` of one detector, one per source."""
    titles = source_titles(outcome.source for outcome in outcomes)
    return roc_curves(f"ROC of {detector_title(outcomes[0].label)}", {titles[one.source]: one for one in outcomes})


_SMALLEST_RATE = 1e-3  # of the inset
_WITH_INSET_BESIDE = 9.6  # inches
_INSIDE, _BESIDE = (0.6, 0.13, 0.36, 0.36), (1.2, 0.2, 0.6, 0.6)  # left, bottom, width, height in shares of the axes


def _draw_rocs(
    figure: Figure,
    axes: Axes,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    styles: Sequence[tuple[str, str]],
) -> None:
    """Draw the curves and their inset, which is moved beside the axes if it would cover one."""
    axes.plot([0, 1], [0, 1], color=NORMAL_COLOUR, linewidth=0.8, linestyle=(0, (1, 2)), label="_chance")
    low = any(np.any(true < 0.55 * np.minimum(2 * false, 1)) for false, true in curves.values())
    inset = axes.inset_axes(_BESIDE if low else _INSIDE)
    if low:
        figure.set_figwidth(_WITH_INSET_BESIDE)
    for (label, (false, true)), (colour, dash) in zip(curves.items(), styles, strict=False):
        axes.plot(false, true, color=colour, linestyle=dash, linewidth=1.6, label=label)
        # Steps: a straight line between two points of the curve is no straight line on a logarithmic axis.
        small = np.maximum(false, _SMALLEST_RATE)
        inset.step(small, true, where="post", color=colour, linestyle=dash, linewidth=1.2, label=label)
    inset.set_xscale("log")
    inset.set_xlim(_SMALLEST_RATE, 1)
    inset.set_ylim(-0.02, 1.02)
    inset.set_xlabel("false positive rate, log", fontsize=7, labelpad=1)
    inset.tick_params(labelsize=7, pad=1.5)
    tidy(inset)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")


def _name_lines(figure: Figure, title: str, lines: int) -> None:
    columns = 2 if lines > 3 else 1
    look = {"fontsize": 8, "frameon": False, "title_fontsize": 8, "borderpad": 0.9}
    figure.legend(loc="outside lower center", ncols=columns, title=title, **look)
    figure.set_figheight(figure.get_figheight() + 0.18 * -(-lines // columns))


def precision_recall_curves(outcomes: Sequence[Outcome]) -> Figure:
    """Draw a test precision-recall curve of one detector per source, named with average precision and prevalence in %.

    Anomalous is the positive class. A line starts at recall 0 with the precision of the highest score and ends where
    recall first reaches 1; the area under its steps is the average precision (AUPR-out).
    """
    from sklearn.metrics import precision_recall_curve

    figure, axes = _square(f"Precision and recall of {detector_title(outcomes[0].label)}, test split")
    titles = source_titles(outcome.source for outcome in outcomes)
    styles = line_styles([*titles])
    for outcome in outcomes:
        test = outcome.scores["test"]
        precision, recall = _without_ends(*precision_recall_curve(test.labels, test.scores)[:2])
        prevalence = f"{100 * test.labels.mean():.0f}"
        label = f"{titles[outcome.source]}  {percent(outcome.metrics['test']['aupr_out'])} ({prevalence})"
        colour, dash = styles[outcome.source]
        # Steps, not slopes: average precision is the area under the steps.
        axes.step(recall, precision, where="post", color=colour, linestyle=dash, linewidth=1.6, label=label)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _name_lines(figure, "AUPR-out in % (share of anomalous images in %)", len(outcomes))
    return figure


def _without_ends(precision: np.ndarray, recall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the point (precision 1, recall 0), which has no threshold, and thresholds below all anomalies."""
    first = int(np.flatnonzero(recall == 1)[-1])
    precision = np.append(precision[first:-1], precision[-2])
    return precision, recall[first:]


def _square(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(5.4, 5.4)
    figure.suptitle(title, fontsize=11)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    tidy(axes)
    return figure, axes


_FEWEST_BINS, _MOST_BINS = 24, 50
_MOST_COLUMNS = 3
# Heavy tails would press all else into one bin: if the range is this many times the interquartile range (normal
# distribution: 6), the axis is logarithmic, or linear around zero and logarithmic outside.
_HEAVY_TAIL = 20.0
_HEADROOM = 1.45  # for the legend, above the highest bar


def score_histograms(outcomes: Sequence[Outcome]) -> Figure:
    """Draw the test scores of normal and anomalous images of one detector, one axes per source.

    Scales and bins are common; each class sums to 100 %; the threshold chosen on `val` is marked. Every score is inside
    the axes; heavy tails get a log or asinh axis.
    """
    columns = min(len(outcomes), _MOST_COLUMNS)
    rows = math.ceil(len(outcomes) / columns)
    figure = new_figure(max(4.0 * columns, 5.0), 2.8 * rows + 0.6)
    places = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    titles = source_titles(outcome.source for outcome in outcomes)
    styles = line_styles([*titles])
    edges = _scaled_edges(places[0], outcomes)
    highest = max(
        _draw(axes, outcome, edges, titles[outcome.source], styles[outcome.source][0])
        for axes, outcome in zip(places, outcomes, strict=False)
    )
    places[0].set_ylim(0, _HEADROOM * highest)
    for axes in places[len(outcomes) :]:
        axes.remove()
    for axes in places[max(len(outcomes) - columns, 0) : len(outcomes)]:
        axes.tick_params(labelbottom=True)
    figure.suptitle(f"Scores of {detector_title(outcomes[0].label)}, test split", fontsize=11)
    figure.supxlabel("score (higher = more anomalous)", fontsize=9)
    figure.supylabel("images of the class, %", fontsize=9)
    return figure


def _draw(axes: Axes, outcome: Outcome, edges: np.ndarray, title: str, colour: str) -> float:
    """Draw one panel and return the height of its highest bar."""
    test = outcome.scores["test"]
    highest = 0.0
    for name, label, shade in (("normal", 0, NORMAL_COLOUR), (title, 1, colour)):
        scores = test.scores[test.labels == label]
        weights = np.full(len(scores), 100 / max(len(scores), 1))
        text = f"{name} ({len(scores)})"
        bars, *_ = axes.hist(scores, bins=edges.tolist(), weights=weights, color=shade, alpha=0.55, label=text)
        highest = max(highest, float(np.max(bars)))
    if math.isfinite(outcome.threshold):
        named = f"threshold {outcome.threshold:.3g}"
        axes.axvline(outcome.threshold, ymax=1 / _HEADROOM, color="black", linewidth=1.2, linestyle="--", label=named)
    axes.set_title(f"{title}: AUROC {percent(outcome.metrics['test']['auroc'])} %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, ncols=2, loc="upper center", columnspacing=1.0, handlelength=1.6, frameon=False)
    tidy(axes)
    return highest


def _bins(outcomes: Sequence[Outcome]) -> int:
    """Number of bins at which those of the smallest class are seldom empty near its mode."""
    labels = [outcome.scores["test"].labels for outcome in outcomes]
    smaller = min(int(np.sum(one == label)) for one in labels for label in (0, 1))
    return int(np.clip(3 * math.sqrt(smaller), _FEWEST_BINS, _MOST_BINS))


def _scaled_edges(axes: Axes, outcomes: Sequence[Outcome]) -> np.ndarray:
    """Set the axis' scale and return bins of equal width on it, float64 [bins + 1]."""
    scores, bins = np.concatenate([outcome.scores["test"].scores for outcome in outcomes]), _bins(outcomes)
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
    """Draw the AUROC in % of one detector for each source of training (rows) and of testing (columns).

    Cells go from white (chance or less) to dark blue (1); the diagonal is framed.
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
    titles = list(source_titles(matrix.sources).values())
    axes.set_xticks(range(count), titles, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(count), titles, fontsize=9)
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(f"AUROC of {detector_title(matrix.detector)} in %, test split", fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    bar.ax.set_yticklabels(["≤ 50", "60", "70", "80", "90", "100"], fontsize=8)
    bar.outline.set_visible(False)
    return figure


class Auroc(NamedTuple):
    """An AUROC on `test` with its 95 % interval, shares in [0, 1]; a mean has no interval, NaN."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def aurocs_of(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], Auroc]:
    """Source and detector to AUROC, without transferred detectors and those that have none."""
    return {
        (one.source, one.detector): Auroc(one.metrics["test"]["auroc"], *one.auroc_interval)
        for one in not_transferred(outcomes)
        if not np.isnan(one.metrics["test"].get("auroc", np.nan))
    }


def detector_bars(outcomes: Sequence[Outcome]) -> Figure:
    """Draw `auroc_bars` of all detectors of a run, with their means where there are several sources."""
    series: dict[str, dict[str, Auroc]] = {}
    for (source, detector), auroc in aurocs_of(outcomes).items():
        series.setdefault(detector, {})[source] = auroc
    for found in series.values():
        if len(found) > 1:
            found[MEAN] = Auroc(float(np.mean([one.value for one in found.values()])))
    return auroc_bars(series, line_styles(list(series)))


_BAR, _GAP = 0.17, 0.3  # inches
_HATCHES = {"-": "", "--": "////", ":": "....", "-.": "xxxx"}


def auroc_bars(series: Mapping[str, Mapping[str, Auroc]], styles: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw a group of bars with intervals for each source, a bar per name; `series` is name to source to AUROC.

    The axis starts at chance, or at 0 where a value is lower; `styles` is name to (colour, dash).
    """
    groups = list(dict.fromkeys(source for found in series.values() for source in found))
    names = [name for name in styles if name in series]
    step, lowest = len(names) * _BAR + _GAP, 100.0
    figure = new_figure(max(step * len(groups) + 1.0, 5.5), 3.4)
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        colour, dash = styles[name]
        values = 100 * np.array(list(series[name].values()))  # value, low, high
        places = [groups.index(source) * step + number * _BAR for source in series[name]]
        look: dict[str, Any] = {"color": colour, "hatch": _HATCHES[dash], "edgecolor": "white", "linewidth": 0.5}
        axes.bar(places, values[:, 0], _BAR, label=name, **look)
        arms = np.clip([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0, None)
        axes.errorbar(places, values[:, 0], arms, fmt="none", ecolor="#222222", elinewidth=0.9, capsize=1.5)
        lowest = min(lowest, float(np.nanmin(values[:, :2])))
    axes.set_ylim(50 if lowest >= 50 else 0, 101)
    axes.set_xlim(-_GAP, max(step * len(groups), 4.5) - _BAR)
    ticks = [place * step + (len(names) - 1) * _BAR / 2 for place in range(len(groups))]
    axes.set_xticks(ticks, groups, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("AUROC, %", fontsize=9)
    tidy(axes)
    axes.grid(visible=False, axis="x")
    columns = max(1, min(len(names), int(figure.get_figwidth() // 1.6)))
    figure.legend(loc="outside upper left", ncols=columns, fontsize=8, frameon=False)
    return figure
