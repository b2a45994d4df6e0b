"""A drift report: scores of new images beside those of reference images, as a table and a figure."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_gradood.core import Refusal
from lightning_gradood.data import class_name
from lightning_gradood.guard import read_description
from lightning_gradood.metrics import ScoreDrift, score_drift
from lightning_gradood.records import read_rows
from lightning_gradood.report.figures import figure_bytes
from lightning_gradood.report.score_figures import CHANGED_COLOUR, NORMAL_COLOUR
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
    "distance = Kolmogorov and Smirnov's, the largest difference of the two cumulative distributions of scores; p: its p-value.\n"
    "effect = P(new > reference) - P(new < reference): above 0 new images are more anomalous."
)


class ScoredImages(NamedTuple):
    """Scores float64 [n], whether each is above the threshold, bool [n], and predicted classes' names, str [n]."""

    scores: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray


def drift_report(reference: Path, new: Path, detector: str | None) -> tuple[ScoreDrift, str, bytes]:
    """Compare the scores of all images, and of those of each predicted class that has at least 5 images in both.

    Args:
        reference: a table that `score` has written, of a run, `scores.parquet`, or a guard's folder.
        new: as `reference`.
        detector: whose scores of a run are meant: those of normal `test` images.

    Returns:
        The drift of all images, all as a table, and a figure as PNG.
    """
    usual, other = scored_images(reference, detector), scored_images(new, detector)
    found = {"all": score_drift(usual.scores, other.scores, usual.flagged, other.flagged)}
    for name in sorted(set(usual.predictions.tolist()) & set(other.predictions.tolist())):
        one, two = (
            ScoredImages(*(values[images.predictions == name] for values in images)) for images in (usual, other)
        )
        if min(len(one.scores), len(two.scores)) >= 5:
            found[f"predicted {name}"] = score_drift(one.scores, two.scores, one.flagged, two.flagged)
    rows = []
    for name, drift in found.items():
        flagged = [f"{100 * share:.1f} %" for share in (drift.reference_flagged, drift.new_flagged)]
        numbers = [f"{drift.distance:.3f}", f"{drift.p_value:.2g}", f"{drift.effect:+.3f}"]
        counts = [str(drift.reference), str(drift.new)]
        rows.append([name, *counts, *flagged, brackets(drift.low, drift.high), *numbers])
    return found["all"], f"{Table(_HEADS, rows).text()}\n{_NOTES}", figure_bytes(_figure(usual, other, found))


def scored_images(path: Path, detector: str | None) -> ScoredImages:
    """Images of a table, which have a score, or those that a guard is calibrated on."""
    if path.is_dir():
        about = read_description(path)
        scores = np.array(about.calibration)
        names = [class_name(one, about.classes) for one in about.calibration_classes]
        return ScoredImages(scores, scores > about.threshold, np.array(names))
    table, types = read_rows(path), {"score": float, "flagged": bool, "prediction": str}
    for name in types:
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
    return ScoredImages(*(np.array([table[name][row] for row in rows], kind) for name, kind in types.items()))


def _figure(reference: ScoredImages, new: ScoredImages, found: dict[str, ScoreDrift]) -> Figure:
    """The cumulative distributions of both, and the share flagged with its interval."""
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
        axes.grid(alpha=0.3)
    return figure
