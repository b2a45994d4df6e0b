"""Figures of scores: ROC and precision-recall curves, histograms, heat maps and bars of AUROCs.

Colours are distinguishable with common colour blindness; no global state of matplotlib is touched.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gradood.evaluation import Outcome
from lightning_gradood.metrics import precision_recall_curve, roc_curve
from lightning_gradood.records import NORMAL
from lightning_gradood.report.tables import MEAN, Matrix, brackets, not_transferred, percent, title


class Style(NamedTuple):
    """The look of one source, detector or run: of lines, and of areas."""

    colour: str
    dash: str
    hatch: str


# Okabe & Ito's (2008) colour-blind-safe palette without yellow (too pale on white) and black (normal is grey).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_STROKES = (("-", ""), ("--", "////"), (":", "...."), ("-.", "xxxx"))
_STYLES = [Style(colour, *stroke) for stroke, colour in itertools.product(_STROKES, _COLOURS)]
NORMAL_COLOUR = "#555555"
CHANGED_COLOUR = "#D55E00"


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, grey for normal images; distinct for up to 24 others."""
    others = [name for name in dict.fromkeys(names) if name != NORMAL]
    return {NORMAL: Style(NORMAL_COLOUR, "-", ""), **dict(zip(others, itertools.cycle(_STYLES), strict=False))}


def tidy(axes: Axes) -> None:
    """Remove two spines and put a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#DDDDDD", linewidth=0.6)


def _for_lines(heading: str, width: float, lines: int) -> Figure:
    """A figure with room for a legend of so many lines in two columns."""
    figure = Figure(figsize=(width, 4.2 + 0.2 * math.ceil(lines / 2)), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    return figure


def _name_lines(figure: Figure, axes: Axes, heading: str) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, title=heading, fontsize=8, frameon=False
    )


def roc_curves(heading: str, outcomes: Mapping[str, Outcome]) -> Figure:
    """Draw a test ROC of each outcome by its name, on a linear axis and on a logarithmic one from 0.001 on.

    Anomalous is the positive class; names are followed by the AUROC and its interval in %.
    """
    figure = _for_lines(f"{heading}, test split", 9.0, len(outcomes))
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    styles = styles_of([*outcomes])
    for name, outcome in outcomes.items():
        test, style = outcome.scores["test"], styles[name]
        false, true = roc_curve(test.scores, test.labels)[:2]
        label = f"{name}  {percent(outcome.metrics['test']['auroc'])} {brackets(*outcome.auroc_interval)}"
        linear.plot(false, true, color=style.colour, linestyle=style.dash, label=label)
        # Steps: a straight line between two points of the curve is no straight line on a logarithmic axis.
        logarithmic.step(np.maximum(false, 1e-3), true, where="post", color=style.colour, linestyle=style.dash)
    logarithmic.set(xscale="log", xlim=(1e-3, 1), xlabel="false positive rate, logarithmic")
    linear.set(xlabel="false positive rate", ylabel="true positive rate")
    for axes in (linear, logarithmic):
        tidy(axes)
    _name_lines(figure, linear, "AUROC in %, 95 % interval")
    return figure


def roc_by_source(outcomes: Sequence[Outcome]) -> Figure:
    """Draw `roc_curves` of one detector, one per source."""
    return roc_curves(f"ROC of {title(outcomes[0].label)}", {title(one.source): one for one in outcomes})


def precision_recall_curves(outcomes: Sequence[Outcome]) -> Figure:
    """Draw a test precision-recall curve of one detector per source, named with average precision and prevalence in %.

    Anomalous is the positive class; the area under the steps is the average precision (AUPR-out).
    """
    figure = _for_lines(f"Precision and recall of {title(outcomes[0].label)}, test split", 5.4, len(outcomes))
    axes, styles = figure.subplots(), styles_of([one.source for one in outcomes])
    for outcome in outcomes:
        test, style = outcome.scores["test"], styles[outcome.source]
        precision, recall = precision_recall_curve(test.scores, test.labels)[:2]
        area = percent(outcome.metrics["test"]["aupr_out"])
        label = f"{title(outcome.source)}  {area} ({100 * test.labels.mean():.0f})"
        axes.step(recall, precision, where="post", color=style.colour, linestyle=style.dash, label=label)
    axes.set(xlabel="recall", ylabel="precision")
    tidy(axes)
    _name_lines(figure, axes, "AUPR-out in % (share of anomalous images in %)")
    return figure


_BINS = 40
_COLUMNS = 3  # of histograms


def score_histograms(outcomes: Sequence[Outcome]) -> Figure:
    """Draw the test scores of normal and anomalous images of one detector, one axes per source.

    The axis is linear up to the median distance of a score from zero and logarithmic beyond, as scores may have heavy
    tails. Bins are common; each class sums to 100 %; the threshold chosen on `val` is marked.
    """
    columns = min(len(outcomes), _COLUMNS)
    rows = math.ceil(len(outcomes) / columns)
    figure = Figure(figsize=(max(4.0 * columns, 5.0), 2.8 * rows + 0.6), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    scores = np.concatenate([outcome.scores["test"].scores for outcome in outcomes])
    width = float(np.median(np.abs(scores))) or 1.0
    low, high = np.arcsinh(np.array([scores.min(), scores.max()]) / width)
    edges = width * np.sinh(np.linspace(low, high, _BINS + 1))
    edges[[0, -1]] = np.nextafter(
        [scores.min(), scores.max()], [-np.inf, np.inf]
    )  # or rounding pushes the extremes out
    styles = styles_of([one.source for one in outcomes])
    for axes, outcome in itertools.zip_longest(places, outcomes):
        if outcome is None:
            axes.set_axis_off()
            continue
        test, name = outcome.scores["test"], title(outcome.source)
        for word, label, colour in (("normal", 0, NORMAL_COLOUR), (name, 1, styles[outcome.source].colour)):
            own = test.scores[test.labels == label]
            weights = np.full(len(own), 100 / max(len(own), 1))
            axes.hist(own, bins=edges.tolist(), weights=weights, color=colour, alpha=0.55, label=f"{word} ({len(own)})")
        if math.isfinite(outcome.threshold):
            axes.axvline(outcome.threshold, color="black", linestyle="--", label=f"threshold {outcome.threshold:.3g}")
        axes.set_title(f"{name}: AUROC {percent(outcome.metrics['test']['auroc'])} %", fontsize=9)
        axes.set_xscale("asinh", linear_width=width)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, frameon=False)
        tidy(axes)
    figure.suptitle(f"Scores of {title(outcomes[0].label)}, test split", fontsize=11)
    figure.supxlabel("score (higher = more anomalous)", fontsize=9)
    figure.supylabel("images of the class, %", fontsize=9)
    return figure


def heat_map(detector: str, matrix: Matrix) -> Figure:
    """Draw the AUROC in % of one detector for each source of training (rows) and of testing (columns)."""
    count, names = len(matrix.sources), list(map(title, matrix.sources))
    figure = Figure(figsize=(0.72 * count + 2.4, 0.72 * count + 2.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix.aurocs, cmap="Blues", vmin=0.5, vmax=1.4)  # never so dark that black letters were hard to read
    for row, column in np.argwhere(~np.isnan(matrix.aurocs)):
        axes.text(column, row, f"{100 * matrix.aurocs[row, column]:.1f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(count), names, rotation=35, ha="right", fontsize=9)
    axes.set_yticks(range(count), names, fontsize=9)
    axes.set(xlabel="tested on", ylabel="trained on")
    figure.suptitle(f"AUROC of {title(detector)} in %, test split", fontsize=11)
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
    return auroc_bars(series)


_BAR, _GAP = 0.17, 0.3  # inches


def auroc_bars(series: Mapping[str, Mapping[str, Auroc]]) -> Figure:
    """Draw a group of bars with intervals for each source, a bar per name; `series` is name to source to AUROC."""
    groups = list(dict.fromkeys(source for found in series.values() for source in found))
    step, styles = len(series) * _BAR + _GAP, styles_of([*series])
    figure = Figure(figsize=(max(step * len(groups) + 1.0, 6.5), 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, found) in enumerate(series.items()):
        values = 100 * np.array(list(found.values()))  # value, low, high
        places = [groups.index(source) * step + number * _BAR for source in found]
        arms = np.clip([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0, None)
        look: dict[str, Any] = {"color": styles[name].colour, "hatch": styles[name].hatch, "edgecolor": "white"}
        axes.bar(places, values[:, 0], _BAR, yerr=arms, label=name, error_kw={"elinewidth": 0.9}, **look)
    centre = (len(series) - 1) * _BAR / 2
    axes.set_xticks(np.arange(len(groups)) * step + centre, groups, rotation=30, ha="right", fontsize=8)
    lowest = min((one.value for found in series.values() for one in found.values()), default=1.0)
    axes.set(ylabel="AUROC, %", ylim=(50 if lowest >= 0.5 else 0, 101))
    tidy(axes)
    columns = max(1, int(figure.get_figwidth() // 1.8))
    figure.legend(loc="outside upper left", ncols=columns, fontsize=8, frameon=False)
    return figure
