"""Drift of scores: those of new images beside a reference, or a stream that a test follows from call to call."""

import csv
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np
from matplotlib.figure import Figure

from lightning_gradood.core import Refusal, atomic_write, fits, read_json, say
from lightning_gradood.data import class_name
from lightning_gradood.guard import guard_folder, read_description, read_scores
from lightning_gradood.metrics import DriftTest, ScoreDrift, score_drift
from lightning_gradood.records import NORMAL
from lightning_gradood.report.score_figures import CHANGED_COLOUR, NORMAL_COLOUR
from lightning_gradood.report.tables import Table, brackets

_ROWS = 1000  # of standard input, after which the state is written
_RATE = 0.01  # of false alarms, by default
_HEADS = (
    "images", "reference", "new", "flagged, reference", "flagged, new", "95 % interval", "distance", "p", "effect",
)  # fmt: skip
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


class DriftStream:
    """New scores against those of a reference, see `metrics.DriftTest`; its state is a JSON file.

    Args:
        reference: usual images.
        state: the file, which need not exist.
        false_alarm: probability of an alarm at any time if nothing drifts, in (0, 1); by default the state's, or 0.01.

    Raises:
        Refusal: the state is damaged, or of another reference or rate.
    """

    def __init__(self, reference: ScoredImages, state: Path, false_alarm: float | None = None) -> None:
        scores = np.sort(reference.scores)
        self.reference, self.state = reference, state
        self.digest, self.tables = hashlib.sha256(scores.tobytes()).hexdigest(), dict[str, str]()
        self.test = DriftTest(scores, false_alarm or _RATE)
        if not state.exists():
            return
        fix = "Name a new file, and a stream begins there."
        try:
            told, kinds = dict(read_json(state)), get_type_hints(DriftTest)
            digest, self.tables = told.pop("reference"), told.pop("tables")
            if not all(fits(value, kinds[name]) for name, value in told.items()):
                raise ValueError("values of another type")
            self.test = DriftTest(scores, **told)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal(f"`--sequential` should be the state of a stream. Got {state}: {error}. {fix}") from error
        if digest != self.digest:
            raise Refusal(
                f"`--sequential` should go on with the scores it began with. Got {state}, which began with others than those "
                f"of {reference.place}: the guard was calibrated anew, or is another. {fix}"
            )
        if false_alarm not in (None, self.test.false_alarm):
            raise Refusal(
                f"`--false_alarm` should stay as the stream began. Got {false_alarm:g} for {state}, which began with "
                f"{self.test.false_alarm:g}. Leave it out. {fix}"
            )

    def follow(self, tables: Sequence[str]) -> Iterator[str]:
        """Take tables as `score` writes them, or with `-` rows of CSV on standard input; yields lines that say what is found.

        The state is written when all tables have been taken; of standard input also at the alarm and every 1,000 rows.
        """
        before, passed = self.test, []
        if list(tables) == ["-"]:
            yield from self._follow_rows()
        else:
            for path in tables:
                table, guard = read_scores(Path(path))
                self.reference.check_same(path, guard)
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                if digest in self.tables:
                    passed.append(path)
                else:
                    self._take(table, path)
                    self.tables[digest] = path
            self._save()
            yield from self._alarm() if self.test.alarm > before.images else ()
        test, tens = self.test, math.log(10)
        if passed:
            yield f"passed over, as they were taken before: {', '.join(passed)}"
        yield (
            f"{test.images - before.images} new images, {test.images} in all, against {len(test.reference)} usual ones: "
            f"evidence for drift 10^{test.evidence / tens:.2f}, at most 10^{test.largest / tens:.2f}; an alarm at "
            f"10^{-math.log10(test.false_alarm):.2f}."
        )
        if 0 < test.alarm <= before.images:
            yield f"The alarm was raised at image {test.alarm}. Once the cause is mended, name a new file."

    def figure(self) -> Figure:
        """The evidence after every image, log₁₀, the line at which an alarm is raised, and the alarm."""
        figure, tens, test = Figure(figsize=(10, 3.2), layout="constrained"), math.log(10), self.test
        axes = figure.subplots()
        images, evidence = test.every * np.arange(1, len(test.trace) + 1), np.array(test.trace) / tens
        axes.plot(images, evidence, color=NORMAL_COLOUR, label="evidence for drift")
        axes.axhline(
            -math.log10(test.false_alarm), color=CHANGED_COLOUR, label=f"alarm; by chance at most {test.false_alarm:g}"
        )
        if test.alarm:
            axes.axvline(test.alarm, color=CHANGED_COLOUR, linestyle=":", label=f"alarm at image {test.alarm:,}")
        axes.set(xlabel="new images", ylabel="evidence for drift, log₁₀", xlim=(0, max(test.images, 1)))
        axes.legend(loc="upper left")
        return figure

    def _follow_rows(self) -> Iterator[str]:
        guard: str | None = None
        try:
            for number, row in enumerate(csv.DictReader(sys.stdin), start=1):
                before, named = self.test, row.get("guard") or guard or ""
                if named != guard:
                    self.reference.check_same("standard input", named)
                guard = named
                self._take({name: [value] for name, value in row.items()}, "standard input")
                if self.test.alarm > before.images or number % _ROWS == 0:
                    self._save()
                if self.test.alarm > before.images:
                    yield from self._alarm()
        finally:
            self._save()

    def _take(self, table: Mapping[str, Sequence[Any]], name: str) -> None:
        try:
            scores = np.array([score for score in table["score"] if score not in (None, "")], dtype=np.float64)
        except (KeyError, ValueError) as error:
            raise Refusal(
                f"`{name}` should be a table that `score` has written. Got {error} in it. Name another table."
            ) from error
        self.test = self.test.after(scores)

    def _alarm(self) -> Iterator[str]:
        rate = self.test.false_alarm
        yield (
            f"ALARM: the images have drifted, by image {self.test.alarm}. Usual images ever raise this alarm "
            f"with a probability of at most {rate:g}."
        )

    def _save(self) -> None:
        told = {one.name: getattr(self.test, one.name) for one in fields(DriftTest) if one.name != "reference"}
        text = json.dumps({"reference": self.digest, "tables": self.tables, **told}, allow_nan=False)
        with atomic_write(self.state, "--sequential") as file:
            file.write(f"{text}\n".encode())
