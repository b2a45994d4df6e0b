"""Figures of scores: ROC and precision-recall curves, histograms, heat maps and bars of AUROCs.

Colours are distinguishable with common colour blindness; no global state of matplotlib is touched.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gradood.evaluation import Outcome
from lightning_gradood.records import NORMAL
from lightning_gradood.report.tables import Auroc, Table, brackets, percent

# Okabe & Ito's (2008) colour-blind-safe palette without yellow (too pale on white) and black (normal is grey).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_STROKES = (("-", ""), ("--", "////"), (":", "...."), ("-.", "xxxx"))  # of lines, and of areas
_STYLES = [(colour, *stroke) for stroke, colour in itertools.product(_STROKES, _COLOURS)]
NORMAL_COLOUR = "#555555"
CHANGED_COLOUR = "#D55E00"
_PANELS = 24  # of one figure; more take a minute to lay out


def styles_of(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, dash and hatch for each name, grey for normal images; distinct for up to 24 others."""
    others = [name for name in dict.fromkeys(names) if name != NORMAL]
    return {NORMAL: (NORMAL_COLOUR, "-", ""), **dict(zip(others, itertools.cycle(_STYLES), strict=False))}


def _finish(figure: Figure, axes: Axes, heading: str, legend: str) -> Figure:
    """Add a heading, and a legend in two columns below."""
    handles, labels = axes.get_legend_handles_labels()
    figure.set_figheight(4.2 + 0.2 * math.ceil(len(labels) / 2))
    figure.suptitle(heading, fontsize=11)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, title=legend, fontsize=8, frameon=False)
    for one in figure.axes:
        one.grid(alpha=0.3)
    return figure


def roc_curves(heading: str, outcomes: Mapping[str, Outcome]) -> Figure:
    """Draw a test ROC of each outcome by its name, on a linear axis and on a logarithmic one from 0.001 on.

    Anomalous is the positive class; names are followed by the AUROC and its interval in %.
    """
    from sklearn.metrics import roc_curve  # takes half a second, which most commands do without

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    styles = styles_of([*outcomes])
    for name, outcome in outcomes.items():
        test, (colour, dash, _) = outcome.scores["test"], styles[name]
        false, true, _ = roc_curve(test.labels, test.scores, drop_intermediate=False)
        label = f"{name}  {percent(outcome.metrics['test']['auroc'])} {brackets(*outcome.auroc_interval)}"
        linear.plot(false, true, color=colour, linestyle=dash, label=label)
        # Steps: a straight line between two points of the curve is no straight line on a logarithmic axis.
        logarithmic.step(np.maximum(false, 1e-3), true, where="post", color=colour, linestyle=dash)
    logarithmic.set(xscale="log", xlim=(1e-3, 1), xlabel="false positive rate, logarithmic")
    linear.set(xlabel="false positive rate", ylabel="true positive rate")
    return _finish(figure, linear, f"{heading}, test split", "AUROC in %, 95 % interval")


def precision_recall_curves(outcomes: Sequence[Outcome]) -> Figure:
    """Draw a test precision-recall curve of one detector per source, named with average precision and prevalence in %.

    Anomalous is the positive class; the area under the steps is the average precision (AUPR-out).
    """
    from sklearn.metrics import precision_recall_curve

    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes, styles = figure.subplots(), styles_of([one.source for one in outcomes])
    for outcome in outcomes:
        test, (colour, dash, _) = outcome.scores["test"], styles[outcome.source]
        precision, recall, _ = precision_recall_curve(test.labels, test.scores)
        area = percent(outcome.metrics["test"]["aupr_out"])
        label = f"{outcome.source}  {area} ({100 * test.labels.mean():.0f})"
        axes.step(recall, precision, where="post", color=colour, linestyle=dash, label=label)
    axes.set(xlabel="recall", ylabel="precision")
    heading = f"Precision and recall of {outcomes[0].label}, test split"
    return _finish(figure, axes, heading, "AUPR-out in % (share of anomalous images in %)")


def score_histograms(outcomes: Sequence[Outcome]) -> Figure:
    """Draw the test scores of normal and anomalous images of one detector, one axes per source.

    The axis is linear up to the median distance of a score from zero and logarithmic beyond, as scores may have heavy
    tails. Bins are common; each class sums to 100 %; the threshold chosen on `val` is marked. Of many sources the 24 with
    the lowest AUROC are drawn.
    """
    heading = f"Scores of {outcomes[0].label}, test split"
    if len(outcomes) > _PANELS:
        outcomes = sorted(outcomes, key=lambda one: one.metrics["test"]["auroc"])[:_PANELS]
        heading += f", the {_PANELS} sources with the lowest AUROC"
    columns = min(len(outcomes), 3)
    rows = math.ceil(len(outcomes) / columns)
    figure = Figure(figsize=(max(4.0 * columns, 5.0), 2.8 * rows + 0.6), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    scores = np.concatenate([outcome.scores["test"].scores for outcome in outcomes])
    width = float(np.median(np.abs(scores))) or 1.0
    low, high = float(scores.min()), float(scores.max())
    edges = width * np.sinh(np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), 41))
    edges[[0, -1]] = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)  # rounding must not push the extremes out
    styles = styles_of([one.source for one in outcomes])
    figure.axes[0].set_xscale("asinh", linear_width=width)  # which the others share
    for axes, outcome in itertools.zip_longest(places, outcomes):
        if outcome is None:
            axes.set_axis_off()
            continue
        test, name = outcome.scores["test"], outcome.source
        for word, label, colour in (("normal", 0, NORMAL_COLOUR), (name, 1, styles[outcome.source][0])):
            own = test.scores[test.labels == label]
            weights = np.full(len(own), 100 / max(len(own), 1))
            axes.hist(own, bins=edges.tolist(), weights=weights, color=colour, alpha=0.55, label=f"{word} ({len(own)})")
        if math.isfinite(outcome.threshold):
            axes.axvline(outcome.threshold, color="black", linestyle="--", label=f"threshold {outcome.threshold:.3g}")
        axes.set_title(f"{name}: AUROC {percent(outcome.metrics['test']['auroc'])} %", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.legend(loc="upper right", fontsize=7, frameon=False)
        axes.grid(alpha=0.3)
    figure.suptitle(heading, fontsize=11)
    figure.supxlabel("score (higher = more anomalous)", fontsize=9)
    figure.supylabel("images of the class, %", fontsize=9)
    return figure


def heat_map(detector: str, matrix: Table) -> Figure:
    """Draw the AUROC in % of one detector for each source of training (rows) and of testing (columns)."""
    names, aurocs = [str(row[0]) for row in matrix.rows], np.array([row[1:-1] for row in matrix.rows], float)
    figure = _numbers(names, names, aurocs)
    figure.axes[0].set(xlabel="tested on", ylabel="trained on")
    figure.suptitle(f"AUROC of {detector} in %, test split", fontsize=11)
    return figure


def _numbers(rows: Sequence[str], columns: Sequence[str], aurocs: np.ndarray) -> Figure:
    """A coloured cell with its number for each AUROC in %, [rows, columns]; NaN stays white."""
    figure = Figure(figsize=(0.72 * len(columns) + 3.0, 0.36 * len(rows) + 2.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(aurocs, cmap="Blues", vmin=50, vmax=140, aspect="auto")  # never too dark for black letters
    for row, column in zip(*np.nonzero(np.isfinite(aurocs)), strict=True):
        axes.text(column, row, f"{aurocs[row, column]:.1f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    return figure


def auroc_map(aurocs: Mapping[tuple[str, str], Auroc]) -> Figure:
    """Draw the AUROC in % of every name (rows, the highest mean first) on every source, from source and name to AUROC."""
    groups, names = (list(dict.fromkeys(part)) for part in zip(*aurocs, strict=True))
    found = {pair: 100 * one.value for pair, one in aurocs.items()}
    values = np.array([[found.get((group, name), np.nan) for group in groups] for name in names])
    order = np.argsort(-np.nanmean(values, axis=1), kind="stable")
    figure = _numbers([names[row] for row in order], groups, values[order])
    figure.suptitle("AUROC in %, test split", fontsize=11)
    return figure


def auroc_bars(aurocs: Mapping[tuple[str, str], Auroc]) -> Figure:
    """Draw a group of bars with intervals for each source, a bar per name, from source and name to AUROC."""
    groups, names = (list(dict.fromkeys(part)) for part in zip(*aurocs, strict=True))
    bar, styles = 0.17, styles_of(names)  # inches
    step = len(names) * bar + 0.3
    figure = Figure(figsize=(max(step * len(groups) + 1.0, 6.5), 3.6), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(names):
        own = {source: one for (source, other), one in aurocs.items() if other == name}
        values, low, high = 100 * np.array(list(own.values())).T
        places = [groups.index(source) * step + number * bar for source in own]
        look: dict[str, Any] = {"color": styles[name][0], "hatch": styles[name][2], "edgecolor": "white"}
        arms = np.clip([values - low, high - values], 0, None)
        axes.bar(places, values, bar, yerr=arms, label=name, error_kw={"elinewidth": 0.9}, **look)
    centre = (len(names) - 1) * bar / 2
    axes.set_xticks(np.arange(len(groups)) * step + centre, groups, rotation=30, ha="right", fontsize=8)
    lowest = min(one.value for one in aurocs.values())
    axes.set(ylabel="AUROC, %", ylim=(50 if lowest >= 0.5 else 0, 101))
    axes.grid(alpha=0.3)
    columns = max(1, int(figure.get_figwidth() // 1.8))
    figure.legend(loc="outside upper left", ncols=columns, fontsize=8, frameon=False)
    return figure
