"""A drift report: scores of new images beside those of reference images, as a table and a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import ScoreDrift, score_drift
from lightning_gradood.records import read_rows
from lightning_gradood.report.score_figures import CHANGED_COLOUR, NORMAL_COLOUR, tidy
from lightning_gradood.report.tables import Table, brackets

_HEADS = (
    "images",
    "reference",
    "new",
    "flagged, reference",
    "flagged, new",
    "95 % interval",
    "distance",
    "p",
    "effect",
)
_NOTES = (
    "distance = Kolmogorov and Smirnov's, the largest difference of the two cumulative distributions of scores; p is its.\n"
    "effect = P(new > reference) - P(new < reference): above 0 new images are more anomalous."
)
_FEW = 5  # classes with fewer images are left out


class ScoredImages(NamedTuple):
    """Scores float64 [n], whether each is above the threshold, bool [n], and predicted classes' names, str [n]."""

    scores: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray

    @classmethod
    def read(cls, path: Path, detector: str | None) -> "ScoredImages":
        """Read a table that `score` has written, or of a run's `scores.parquet` a detector's normal `test` images."""
        table = read_rows(path)
        for name in ("score", "flagged", "prediction"):
            if name not in table:
                raise Refusal(
                    f"`{path}` should be a table that `score` or `detect` has written. Got one without `{name}`. Name another."
                )
        rows = [row for row, score in enumerate(table["score"]) if score is not None]
        if "detector" in table:
            known = sorted(set(table["detector"]))
            if detector not in known:
                raise Refusal(
                    f"`--detector` should say whose scores are meant, as `{path}` has several. Got {detector}. "
                    f"Choose among {', '.join(known)}."
                )
            keys = zip(*(table[name] for name in ("detector", "split", "anomalous")), strict=True)
            own = [row for row, key in enumerate(keys) if key == (detector, "test", 0)]
            rows = list({table["id"][row]: row for row in reversed(own)}.values())  # each image once
        types = {"score": float, "flagged": bool, "prediction": str}
        return cls(*(np.array([table[name][row] for row in rows], kind) for name, kind in types.items()))

    def of(self, prediction: str) -> "ScoredImages":
        """The images with one predicted class."""
        rows = self.predictions == prediction
        return ScoredImages(*(values[rows] for values in self))


def drift_by_class(reference: ScoredImages, new: ScoredImages) -> dict[str, ScoreDrift]:
    """Compare all images, as `all`, then those of each predicted class that has at least 5 images in both."""
    pairs = {"all": (reference, new)}
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
    rows = []
    for name, one in found.items():
        flagged = [f"{100 * share:.1f} %" for share in (one.reference_flagged, one.new_flagged)]
        numbers = [f"{one.distance:.3f}", f"{one.p_value:.2g}", f"{one.effect:+.3f}"]
        rows.append([name, str(one.reference), str(one.new), *flagged, brackets(one.low, one.high), *numbers])
    return f"{Table(_HEADS, rows).text()}\n{_NOTES}"


def drift_figure(reference: ScoredImages, new: ScoredImages, found: Mapping[str, ScoreDrift]) -> Figure:
    """Draw the cumulative distributions of both, and the share flagged with its interval."""
    figure = Figure(figsize=(10, max(3.2, 0.28 * len(found) + 1.4)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, images, colour in (("reference", reference, NORMAL_COLOUR), ("new", new, CHANGED_COLOUR)):
        left.ecdf(images.scores, label=f"{name}, {len(images.scores)} images", color=colour)
    left.set(xlabel="score (higher = more anomalous)", ylabel="share of images at or below")
    names, usual = list(found), [100 * one.reference_flagged for one in found.values()]
    shares, low, high = 100 * np.array([[one.new_flagged, one.low, one.high] for one in found.values()]).T
    errors = np.abs([low - shares, high - shares])
    right.errorbar(shares, names, xerr=errors, fmt="o", color=CHANGED_COLOUR, label="new, 95 % interval")
    right.plot(usual, names, "|", ms=12, color=NORMAL_COLOUR, label="reference")
    right.set(xlabel="flagged, %")
    right.invert_yaxis()
    for axes in (left, right):
        axes.legend(frameon=False)
        tidy(axes)
    return figure
