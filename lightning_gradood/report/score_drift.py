"""A drift report: scores of new images beside those of reference images, as a table and a figure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from lightning_gradood.metrics import ScoreDrift, score_drift
from lightning_gradood.report.score_figures import NORMAL_COLOUR, new_figure, tidy

ALL = "all"
_HEADS = [
    "images",
    "reference",
    "new",
    "flagged, reference",
    "flagged, new",
    "95 % interval",
    "distance",
    "p",
    "effect",
]
_FEW = 5  # classes with fewer images are left out
_NEW_COLOUR = "#D55E00"


@dataclass(frozen=True)
class ScoredImages:
    """Scores float64 [n], whether each is above the threshold, bool [n], and predicted classes' names, str [n]."""

    scores: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray

    def of(self, prediction: str) -> "ScoredImages":
        """The images with one predicted class."""
        rows = self.predictions == prediction
        return ScoredImages(self.scores[rows], self.flagged[rows], self.predictions[rows])


def drift_by_class(reference: ScoredImages, new: ScoredImages) -> dict[str, ScoreDrift]:
    """Compare all images, as `all`, then those of each predicted class that has at least 5 images in both."""
    pairs = {ALL: (reference, new)}
    for name in sorted(set(reference.predictions.tolist()) & set(new.predictions.tolist())):
        pair = reference.of(name), new.of(name)
        if min(len(one.scores) for one in pair) >= _FEW:
            pairs[f"predicted {name}"] = pair
    return {
        name: score_drift(usual.scores, other.scores, usual.flagged, other.flagged)
        for name, (usual, other) in pairs.items()
    }


def drift_table(found: Mapping[str, ScoreDrift]) -> str:
    """Text of a drift report."""
    rows = [
        [
            name,
            one.reference,
            one.new,
            f"{100 * one.reference_flagged:.1f} %",
            f"{100 * one.new_flagged:.1f} %",
            f"[{100 * one.low:.1f}, {100 * one.high:.1f}]",
            f"{one.distance:.3f}",
            f"{one.p_value:.2g}",
            f"{one.effect:+.3f}",
        ]
        for name, one in found.items()
    ]
    notes = (
        "distance = Kolmogorov and Smirnov's, the largest difference of the two cumulative distributions of scores; p is its.\n"
        "effect = P(new > reference) - P(new < reference): above 0 new images are more anomalous."
    )
    return f"{tabulate(rows, _HEADS, disable_numparse=True, stralign='right')}\n{notes}"


def drift_figure(reference: ScoredImages, new: ScoredImages, found: Mapping[str, ScoreDrift]) -> Figure:
    """Draw the cumulative distributions of both, and the share flagged with its interval."""
    figure = new_figure(10, max(3.2, 0.28 * len(found) + 1.4))
    left, right = figure.subplots(1, 2)
    for name, images, colour in (("reference", reference, NORMAL_COLOUR), ("new", new, _NEW_COLOUR)):
        left.ecdf(images.scores, label=f"{name}, {len(images.scores)} images", color=colour)
    left.set_xlabel("score (higher = more anomalous)")
    left.set_ylabel("share of images at or below")
    left.legend(frameon=False)
    places = np.arange(len(found))[::-1]
    shares = [100 * one.new_flagged for one in found.values()]
    errors = [[100 * abs(bound - one.new_flagged) for bound in (one.low, one.high)] for one in found.values()]
    right.errorbar(shares, places, xerr=np.transpose(errors), fmt="o", color=_NEW_COLOUR, label="new, 95 % interval")
    usual = [100 * one.reference_flagged for one in found.values()]
    right.plot(usual, places, "|", ms=12, color=NORMAL_COLOUR, label="reference")
    right.set_yticks(places, list(found))
    right.set_xlabel("flagged, %")
    right.legend(frameon=False)
    for axes in (left, right):
        tidy(axes)
    return figure
