"""How far apart the scores of normal and anomalous images lie."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gradood.detectors import Outcome
from lightning_gradood.report.palette import NORMAL_COLOUR, line_styles, new_figure, tidy
from lightning_gradood.report.tables import percent

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
