"""Triage: flagged images in groups of alike ones, on a page and in a table where a person marks them, for `refit`."""

import io
import math
import os
import random
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradood.core import MEGAPIXELS, PixelLimit, Refusal, atomic_write, printable, read_picture
from lightning_gradood.detectors import readings
from lightning_gradood.guard import Change, FileVerdict, Guard, Marks, explain, read_files
from lightning_gradood.records import NORMAL, Records, read_rows, write_rows
from lightning_gradood.report.pages import render
from lightning_gradood.report.tables import ABSENT, Table, percent

PAGE, TABLE = "triage.html", "marks.csv"
WHOLE = "*"  # in place of a path: all images of the group
LEFT_OUT = "-"  # the mark of an image that does not belong to its group
_COLUMNS: dict[str, type] = {
    "group": int, "mark": str, "path": str, "images": int, "score": float, "p_value": float, "prediction": str, "reason": str,
}  # fmt: skip
_ROW: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"mark": ""}
_NOT_FLAGGED = "0"  # the group of images that are not flagged
_MOST, _USUAL = 2000, 1000  # images that are grouped, and others in the table
_GROUPS = 12
_SHOWN, _NEAREST, _PIXELS = 24, 6, 96  # images of a group on the page, normal ones beside them, and their longer side
_FEW = 300  # readings whose contributions to one image's score take seconds


@dataclass(frozen=True)
class Picture:
    """A small PNG, or none, and what it is of."""

    png: bytes | None
    path: str
    caption: str


@dataclass(frozen=True)
class Group:
    """Images that are alike, the most typical first.

    Args:
        rows: of the triaged images.
        predictions, reason: in words.
        pictures: of some of the images, with their scores.
        normal: the most similar normal images that the guard knows.
    """

    number: int
    rows: Sequence[int]
    predictions: str
    reason: str
    pictures: Sequence[Picture]
    normal: Sequence[Picture]


class Triage:
    """Collects verdicts as they come, and writes a page and a table about the flagged ones.

    Attributes:
        flagged: paths and verdicts of the first 2,000.
        usual: of those that are not flagged, some at random.
    """

    def __init__(self) -> None:
        self.flagged, self.usual = list[tuple[str, FileVerdict]](), list[tuple[str, FileVerdict]]()
        self.left, self.number, self._random = 0, 0, random.Random(0)

    def add(self, path: str, verdict: FileVerdict) -> None:
        """Keep a verdict; of images that are not flagged a sample, each as likely as any other."""
        one = (os.path.abspath(path), verdict)
        if verdict.flagged and len(self.flagged) < _MOST:
            self.flagged.append(one)
        elif verdict.flagged:
            self.left += 1
        elif verdict.error is None:
            self.number += 1
            if len(self.usual) < _USUAL:
                self.usual.append(one)
            elif (place := self._random.randrange(self.number)) < _USUAL:
                self.usual[place] = one

    def write(self, folder: Path, guard: Guard, guard_folder: str, megapixels: float = MEGAPIXELS) -> str:
        """Write `triage.html` and `marks.csv`, and say in a line what to do with them."""
        if not self.flagged:
            return "triage: no image is flagged, and no page is written"
        records = read_files(guard, [path for path, _ in self.flagged], megapixels)
        names, shares = _shares(guard, records)
        groups = list(_groups(guard, records, self.flagged, (names, shares), megapixels))
        reasons = [_in_words(names, one) for one in shares.T]
        rows = [row for group in groups for row in _table_rows(group, self.flagged, reasons)]
        if self.usual and not self.left:  # else some flagged ones cannot be marked
            about = {"group": 0, "mark": NORMAL, "path": WHOLE, "images": self.number, "reason": "not flagged"}
            rows += [_ROW | about, *(_row(0, *one, "") for one in self.usual)]
        flags = shlex.join(["--guard", guard_folder, "--marked", str(folder / TABLE)])
        command = f"python -m lightning_gradood refit {flags} --output NEW"
        write_rows(rows, _COLUMNS, folder / TABLE, "--triage")
        told = {"groups": groups, "rows": rows, "command": command, "threshold": guard.threshold, "left": self.left}
        page = render("triage.html.jinja", title=f"Triage of {len(self.flagged)} flagged images", table=TABLE, **told)
        with atomic_write(folder / PAGE, "--triage") as file:
            file.write(page.encode())
        more = f" (the first; {self.left} more are left out)" if self.left else ""
        found = f"triage: {len(self.flagged)} flagged images{more} in {len(groups)} groups: {folder / PAGE}"
        return f"{found}\nMark them, then: {command}"


def read_marks(path: Path) -> Marks:
    """Marks of a table with columns `path` and `mark`, such as one that `Triage` has written and a person has marked.

    Where a path is `*`, the mark is that of all images with the same `group` that have none; `-` leaves an image out. Group
    0, images that were not flagged, counts as normal once every flagged image is `normal` or an anomaly.
    """
    table = read_rows(path)
    if not {"path", "mark"} <= set(table):
        raise Refusal(
            f"`--marked` should be a table with the columns path and mark, separated by commas. Got `--marked {path}` with "
            f"{', '.join(table)}. Take {TABLE} of `score --triage`."
        )
    marks = [str("" if mark is None else mark).strip() for mark in table["mark"]]
    marks = [NORMAL if mark.lower() == NORMAL else mark for mark in marks]
    groups = [str(one) for one in table.get("group", [""] * len(marks))]
    rows = list(zip(groups, map(str, table["path"]), marks, table.get("images", marks), strict=True))
    whole, number = {}, 0
    for group, name, mark, images in rows:
        if name == WHOLE:
            whole[group], number = mark, int(images or 0) if group == _NOT_FLAGGED else number
    found = {name: (group, mark or whole.get(group, "")) for group, name, mark, _ in rows if name != WHOLE}
    usual = [name for name, (group, mark) in found.items() if group == _NOT_FLAGGED and mark == NORMAL]
    named = {name: mark for name, (_, mark) in found.items() if mark not in ("", LEFT_OUT) and name not in {*usual}}
    if not named:
        raise Refusal(
            f"`--marked` should have marks: `{NORMAL}`, or an anomaly's name. Got none in the column `mark` of {path}. Write "
            f"one in the row of an image, or in the row `{WHOLE}` of its group."
        )
    if all(name in named for name, (group, _) in found.items() if group != _NOT_FLAGGED):
        return Marks(named, usual, number)
    return Marks(named)


def refit_text(guard: Guard, changes: Sequence[Change], usual: int) -> str:
    """What a refit changes, as a table and sentences for a terminal; `usual` images were not flagged and count as normal."""
    heads = ["images", "number", "flagged before, %", "now", "AUROC before, %", "now"]
    rows = []
    for one in changes:
        aurocs = [percent(value) for value in one.auroc] if one.auroc else [ABSENT, ABSENT]
        rows.append([one.mark, str(one.images), *(f"{100 * share:.1f}" for share in one.flagged), *aurocs])
    sentences = [f"At most {100 * guard.about.false_positive_rate:.3g} % of normal images may be flagged, as before."]
    if usual:
        sentences.append(
            f"As all flagged images are marked, {usual} images that were not flagged calibrate as normal ones too."
        )
    elif any(one.mark == NORMAL for one in changes):
        sentences.append(
            "Not all flagged images are marked, so that normal ones that were not flagged are missing from the calibration: "
            "fewer normal images are flagged than may be, and more anomalies are missed."
        )
    if any(one.auroc for one in changes):
        sentences.append(
            "`now` is of marked images that were left out of the fit, in five parts; AUROC is against normal ones."
        )
    return "\n".join([Table(heads, rows).text(), *sentences])


def _row(group: int, path: str, verdict: FileVerdict, reason: str) -> dict[str, Any]:
    numbers = {name: getattr(verdict, name) for name in ("score", "p_value", "prediction")}
    return _ROW | numbers | {"group": group, "path": printable(path), "reason": reason}


def _table_rows(
    group: Group, flagged: Sequence[tuple[str, FileVerdict]], reasons: Sequence[str]
) -> Iterator[dict[str, Any]]:
    about = {"prediction": group.predictions, "reason": group.reason, "images": len(group.rows)}
    yield _ROW | about | {"group": group.number, "path": WHOLE}
    for row in group.rows:
        yield _row(group.number, *flagged[row], reasons[row])


def _groups(
    guard: Guard,
    records: Records,
    flagged: Sequence[tuple[str, FileVerdict]],
    parts: tuple[list[str], np.ndarray],
    megapixels: float,
) -> Iterator[Group]:
    """Groups by k-means on what the guard reads, in standard deviations of normal images, the largest first."""
    from sklearn.cluster import KMeans  # takes half a second, which most commands do without

    (names, shares), (paths, verdicts) = parts, zip(*flagged, strict=True)
    normal = guard.known.at(np.array(guard.known.marks) == NORMAL)
    usual, values = readings(normal.records, guard.probes), readings(records, guard.probes)
    mean, scale = usual.mean(axis=0), usual.std(axis=0)
    scale[scale == 0] = 1.0
    usual, values = (np.clip((one - mean) / scale, -8, 8).astype(np.float32) for one in (usual, values))
    number = min(_GROUPS, max(1, round(math.sqrt(len(values)) / 2)), len(np.unique(values, axis=0)))
    found = KMeans(number, n_init=4, random_state=0).fit(values)
    for place, (label, _) in enumerate(Counter(found.labels_.tolist()).most_common(), start=1):
        centre, rows = found.cluster_centers_[label], np.flatnonzero(found.labels_ == label)
        rows = rows[np.argsort(np.linalg.norm(values[rows] - centre, axis=1), kind="stable")]
        near = np.argsort(np.linalg.norm(usual - centre, axis=1), kind="stable")[:_NEAREST]
        counts = Counter(verdicts[row].prediction for row in rows.tolist())
        more = _readings_that_count(guard, paths[rows[0]], megapixels) if len(names) == 1 else ""
        spread = rows[np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(int))].tolist()
        yield Group(
            number=place,
            rows=rows.tolist(),
            predictions=", ".join(f"{name} {100 * count / len(rows):.0f} %" for name, count in counts.most_common(3)),
            reason=_in_words(names, shares[:, rows].mean(axis=1)) + more,
            pictures=[_picture(paths[row], f"{verdicts[row].score:.3g}", megapixels) for row in spread],
            normal=[_picture(normal.names[row], "", megapixels) for row in near],
        )


def _shares(guard: Guard, records: Records) -> tuple[list[str], np.ndarray]:
    """Names of the detector's parts, and the share of each in the scores, float64 [parts, n]."""
    parts = guard.saved.detector.parts(guard.fitted, records)
    values = np.maximum(np.stack(list(parts.values())), 0)
    return list(parts), values / np.maximum(values.sum(axis=0), 1e-12)


def _in_words(names: Sequence[str], shares: np.ndarray) -> str:
    """The three largest shares; the name alone where there is one part."""
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{names[one]} {100 * shares[one]:.0f} %" for one in np.argsort(-shares, kind="stable")[:3])


def _readings_that_count(guard: Guard, path: str, megapixels: float) -> str:
    """The readings that add most to an image's score, where a detector has one part and few readings."""
    if sum(map(len, guard.usual_readings.values())) > _FEW:
        return ""
    picture = read_picture(path, guard.about.picture, PixelLimit(megapixels))
    (found,) = explain(guard, guard.read(picture)[None])
    largest = sorted(found.contributions.items(), key=lambda pair: -pair[1])[:3]
    return f"; of the first image: {', '.join(f'{name} {value:+.2g}' for name, value in largest)}"


def _picture(path: str, caption: str, megapixels: float) -> Picture:
    try:
        image = read_picture(path, "RGB", PixelLimit(megapixels))
    except Refusal:
        return Picture(None, path, caption)
    image.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Picture(buffer.getvalue(), path, caption)
