"""Refitting a guard with marked images: normal ones calibrate it, anomalies become known to its detector."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lightning_gradood.core import MEGAPIXELS, PixelLimit, Refusal, read_picture
from lightning_gradood.detectors import (
    EmpiricalTail,
    FittedKnownAnomalies,
    KnownAnomalies,
    SavedDetector,
    score_in_blocks,
)
from lightning_gradood.guard.guard import Guard
from lightning_gradood.guard.known_images import KnownImages
from lightning_gradood.metrics import auroc, conformal_threshold
from lightning_gradood.records import NORMAL, Records

MARKED, NOT_FLAGGED = "marked", "not flagged"  # parts of images: what a person has marked, and usual ones beside it
USUAL = "normal, not marked"


@dataclass(frozen=True)
class Marks:
    """What a person has marked.

    Args:
        marks: path of an image file to `normal` or an anomaly's name.
        usual: files that the guard has not flagged, drawn from `number` such ones, where all flagged ones are marked:
            together these are a sample of normal images. Anomalies among them that the guard has missed raise the threshold.
    """

    marks: Mapping[str, str]
    usual: Sequence[str] = ()
    number: int = 0


@dataclass(frozen=True)
class Change:
    """What a refit changes for the `images` of a mark: shares flagged and AUROCs before and after, None for normal images.

    Afterwards each image is scored without having been learnt from: marked ones by regressions that were fitted without
    their fifth of the images.
    """

    mark: str
    images: int
    flagged: tuple[float, float]
    auroc: tuple[float, float] | None = None


def refit(guard: Guard, marked: KnownImages, seed: int = 0) -> tuple[Guard, list[Change]]:
    """Refit a guard, which stays as it is.

    Without a known anomaly the detector stays, and scores of marked normal images join the calibration. If these are flagged
    ones alone, the threshold rises, never falls: false alarms stay below the rate that was asked for, and more anomalies are
    missed than at a threshold for normal images of all kinds. With anomalies the detector becomes `KnownAnomalies`, fitted
    and calibrated on the images that the guard keeps and on the marked ones.

    Args:
        guard: made by `detect`, or by a refit, whose marked images count too unless `marked` holds them.
        marked: images that a person has marked, as `read_marked` reads them.

    Returns:
        The new guard, which shares the network, and what changes by mark.
    """
    own = marked.at(~np.isin(marked.names, guard.known.names))  # the others calibrate already
    known = guard.known.at(~np.isin(guard.known.names, marked.names)) + marked
    if all(mark == NORMAL for mark in known.marks):
        return _recalibrated(guard, known, own.at(np.array(own.parts, dtype=str) != "train"))
    return _with_anomalies(guard, known, seed)


def read_marked(guard: Guard, marks: Marks, megapixels: float = MEGAPIXELS) -> KnownImages:
    """Read marked image files, of which larger ones than so many megapixels are refused, as are files that are gone."""
    paths = [*marks.marks, *marks.usual]
    if gone := [path for path in paths if not os.path.isfile(path)]:
        raise Refusal(
            f"`--marked` should name image files that are still there. Got {len(gone)} of {len(paths)} that are gone, the "
            f"first `{gone[0]}`. Put them back, or remove their rows."
        )
    records = read_files(guard, paths, megapixels)
    parts = [MARKED] * len(marks.marks) + [NOT_FLAGGED] * len(marks.usual)
    normal = [row for row, mark in enumerate(marks.marks.values()) if mark == NORMAL]
    normal = np.random.default_rng(0).permutation(normal).tolist()
    share = len(marks.usual) / marks.number if marks.number else 1.0
    for row in normal[math.ceil(share * len(normal)) :]:  # as many of them calibrate as of those that were not flagged
        parts[row] = "train"
    values = {name: records.stored(name).copy() for name in guard.known.values}
    every = [*marks.marks.values(), *(NORMAL for _ in marks.usual)]
    names = [os.path.abspath(path) for path in paths]
    return KnownImages(names, every, parts, records.column("prediction").copy(), values)


def read_files(guard: Guard, paths: Sequence[str], megapixels: float = MEGAPIXELS) -> Records:
    """What a guard's probes read of image files."""
    limit, size, parts = PixelLimit(megapixels), guard.about.batch_size, list[Records]()
    for start in range(0, len(paths), size):
        pictures = ((path, read_picture(path, guard.about.picture, limit)) for path in paths[start : start + size])
        parts.append(guard.records(torch.stack([guard.read(picture, path) for path, picture in pictures])))
    return Records.concatenate(parts)


def _recalibrated(guard: Guard, known: KnownImages, new: KnownImages) -> tuple[Guard, list[Change]]:
    scores, flags = score_in_blocks(guard.fitted, new.records), np.array(new.parts, dtype=str) == MARKED
    calibration = np.concatenate([guard.calibration, scores])
    classes = np.concatenate([guard.about.calibration_classes, new.predictions])
    metrics = {
        source: {name: value for name, value in found.items() if name.endswith("auroc")}  # which thresholds leave alone
        for source, found in guard.about.metrics.items()
        if source != NORMAL
    }
    made = _calibrated(guard, guard.saved, known, calibration, classes, metrics=metrics)
    kinds = {USUAL: np.concatenate([guard.calibration, scores[~flags]]), NORMAL: scores[flags]}
    pairs = [(mark, own) for mark, own in kinds.items() if len(own)]
    return made, [Change(mark, len(own), _shares(guard, own, made, own)) for mark, own in pairs]


def _with_anomalies(guard: Guard, known: KnownImages, seed: int) -> tuple[Guard, list[Change]]:
    detector, learnt = guard.saved.detector, guard.fitted
    if isinstance(detector, KnownAnomalies) and isinstance(learnt, FittedKnownAnomalies):
        detector, learnt = detector.earlier, learnt.earlier
    detector = KnownAnomalies(detector, name=f"{detector.name}_and_known")
    splits = {"val": "val", NOT_FLAGGED: "test"}
    records = known.records.with_splits({str(row): splits.get(part, "train") for row, part in enumerate(known.parts)})
    train, val, fresh = (records.where(split=split) for split in ("train", "val", "test"))
    flags = np.array([part == MARKED for part in known.parts if part not in splits])
    held_out = detector.held_out(train, seed)
    fitted, own = detector.beside(learnt, records, held_out), train.keep(flags)
    kept, scores = _alone(fitted, val), fitted.surprises(own, held_out[:, flags]).max(axis=0)
    usual, marks, normal = np.concatenate([kept, fitted.score(fresh)]), own.column("source"), own.anomalous == 0
    calibration = np.concatenate([usual, scores[normal]])
    classes = np.concatenate([part.column("prediction") for part in (val, fresh, own.keep(normal))])
    old, before = (score_in_blocks(guard.fitted, part) for part in (val, own))
    names = np.unique(marks[~normal]).tolist()
    pairs = {name: (_auroc(old, before[marks == name]), _auroc(kept, scores[marks == name])) for name in names}
    trained = [] if guard.about.trained_on == NORMAL else guard.about.trained_on.split("+")
    counts = {"normal": int((train.anomalous == 0).sum()), "anomalous": int(train.anomalous.sum())}
    trained_on = "+".join(dict.fromkeys([*trained, *names]))
    saved = SavedDetector(detector, fitted, 0.0, guard.saved.reads, trained_on, {"train": counts})
    metrics = {name: {"val/auroc": pair[1]} for name, pair in pairs.items()}
    about = {"detector_name": detector.name, "trained_on": trained_on, "metrics": metrics, "built_in": False}
    made = _calibrated(guard, saved, known, calibration, classes, **about)
    old = np.concatenate([old, score_in_blocks(guard.fitted, fresh)])
    changes = [Change(USUAL, len(usual), _shares(guard, old, made, usual))]
    for name in np.unique(marks).tolist():
        rows = marks == name
        changes.append(Change(name, int(rows.sum()), _shares(guard, before[rows], made, scores[rows]), pairs.get(name)))
    return made, changes


def _calibrated(
    guard: Guard, saved: SavedDetector, known: KnownImages, scores: np.ndarray, classes: np.ndarray, **about: Any
) -> Guard:
    """The new guard, calibrated on scores float64 [n] of normal images with predicted classes [n]."""
    order = np.argsort(scores, kind="stable")
    threshold = conformal_threshold(scores, guard.about.false_positive_rate)
    counts = guard.about.counts | saved.counts | {"calibration": {"normal": len(scores)}}
    changed = {"calibration": scores[order].tolist(), "calibration_classes": classes[order].tolist()} | about
    description = replace(guard.about, threshold=threshold, counts=counts, **changed)
    saved = replace(saved, threshold=threshold, counts=counts)
    return Guard(guard.network, saved, guard.probes, guard.transform, description, known)


def _alone(fitted: FittedKnownAnomalies, val: Records) -> np.ndarray:
    """Scores of the images in the earlier detector's tail, each against the tail without it, as a new image has it."""
    surprises, scores = fitted.surprises(val), score_in_blocks(fitted.earlier, val)
    tails = (EmpiricalTail(np.sort(np.delete(scores, row))) for row in range(len(scores)))
    alone = [float(tail.surprise(scores[row : row + 1])[0]) for row, tail in enumerate(tails)]
    return np.asarray(np.maximum(np.array(alone) + np.log(fitted.shares[0]), surprises[1:].max(axis=0)))


def _auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    return auroc(np.concatenate([normal, anomalous]), np.repeat([0, 1], [len(normal), len(anomalous)]))


def _shares(old: Guard, before: np.ndarray, new: Guard, after: np.ndarray) -> tuple[float, float]:
    """Shares of scores above the old and the new threshold."""
    return float(np.mean(before > old.threshold)), float(np.mean(after > new.threshold))
