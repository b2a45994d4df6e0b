"""A drift report: scores of new images beside those of reference images, as a table and a figure."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib.figure import Figure

from lightning_gradood.core import Refusal, say
from lightning_gradood.data import class_name
from lightning_gradood.guard import guard_folder, read_description, read_scores
from lightning_gradood.metrics import ScoreDrift, score_drift
from lightning_gradood.records import NORMAL
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


@dataclass(frozen=True)
class ScoredImages:
    """Images that one guard has scored.

    Args:
        place: the table, or the guard's folder.
        guard: see `guard.Description.identity`; empty where the table does not say it.
        scores: float64 [n].
        flagged: whether each is above the threshold, bool [n].
        predictions: names of the predicted classes, str [n].
    """

    place: str
    guard: str
    scores: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray

    @classmethod
    def of_guard(cls, folder: Path) -> Self:
        """Those that a guard, its folder or its run's is given, is calibrated on."""
        about = read_description(guard_folder(folder))
        names = np.array([class_name(one, about.classes) for one in about.calibration_classes])
        scores = np.array(about.calibration)
        return cls(str(folder), about.identity, scores, scores > about.threshold, names)

    @classmethod
    def of_table(cls, path: Path) -> Self:
        """Those with a score in a table of `score`; of a run's guard_scores.parquet the normal ones of `test`."""
        (table, guard), types = read_scores(path), {"score": float, "flagged": bool, "prediction": str}
        for name in types:
            if name not in table:
                raise Refusal(
                    f"`{path}` should be a table that `score` has written. Got one without `{name}`. Name another."
                )
        rows = [row for row, score in enumerate(table["score"]) if score is not None]
        if "split" in table:
            rows = [row for row in rows if (table["split"][row], table["source"][row]) == ("test", NORMAL)]
        return cls(
            str(path), guard, *(np.array([table[name][row] for row in rows], kind) for name, kind in types.items())
        )

    def check_same(self, place: str, guard: str) -> None:
        """Refuse scores of another guard; say it where one of both is not known."""
        if self.guard and guard and self.guard != guard:
            raise Refusal(
                f"`{place}` should hold scores of the guard of `{self.place}`, {self.guard}. Got those of {guard}. Scores of "
                "different guards cannot be compared: score the images again with one of them."
            )
        if bool(self.guard) != bool(guard):
            silent = self.place if guard else place
            say(
                f"{silent} does not say which guard gave its scores; they are taken for those of {self.guard or guard}."
            )

    def predicted(self, name: str) -> Self:
        """Those of one predicted class."""
        rows = self.predictions == name
        changed = {"scores": self.scores[rows], "flagged": self.flagged[rows], "predictions": self.predictions[rows]}
        return replace(self, **changed)


def drift_report(usual: ScoredImages, other: ScoredImages) -> tuple[ScoreDrift, str, Figure]:
    """Compare new images with usual ones, all of them, and those of each predicted class that has at least 5 in both.

    Returns:
        The drift of all images, all as a table, and a figure.
    """
    usual.check_same(other.place, other.guard)
    found = {"all": score_drift(usual.scores, other.scores, usual.flagged, other.flagged)}
    for name in sorted(set(usual.predictions.tolist()) & set(other.predictions.tolist())):
        one, two = usual.predicted(name), other.predicted(name)
        if min(len(one.scores), len(two.scores)) >= 5:
            found[f"predicted {name}"] = score_drift(one.scores, two.scores, one.flagged, two.flagged)
    rows = []
    for name, drift in found.items():
        flagged = [f"{100 * share:.1f} %" for share in (drift.reference_flagged, drift.new_flagged)]
        numbers = [f"{drift.distance:.3f}", f"{drift.p_value:.2g}", f"{drift.effect:+.3f}"]
        counts = [str(drift.reference), str(drift.new)]
        rows.append([name, *counts, *flagged, brackets(drift.low, drift.high), *numbers])
    return found["all"], f"{Table(_HEADS, rows).text()}\n{_NOTES}", _figure(usual, other, found)


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
