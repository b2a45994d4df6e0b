"""Scoring image files with a guard: finding them, decoding ahead in threads, one verdict per file, readable or not."""

from __future__ import annotations

import glob
import io
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.core import (
    MEGAPIXELS,
    PassedOver,
    Picture,
    PixelLimit,
    Refusal,
    find_image_files,
    printable,
    read_picture,
)
from lightning_gradood.guard.folder import Description

_THREADS = 4


@dataclass(frozen=True)
class Verdict:
    """What a guard says of N images.

    Args:
        scores: higher = more anomalous, float64 [N].
        p_values: share of normal images, the calibration images and the image itself, that score at least as high,
            float64 [N] in (0, 1].
        flagged: whether the score is above the threshold, bool [N].
        predictions: the classifier's, int64 [N].
        probabilities: the largest softmax probability, float64 [N].
    """

    scores: np.ndarray
    p_values: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class ImageScorer(Protocol):
    """Scores images that are ready for the network; a `Guard`."""

    about: Description

    def read(self, picture: Picture, name: str = ...) -> Tensor:
        """Convert a picture to the network's input, or refuse it."""

    def __call__(self, images: Tensor) -> Verdict:
        """Score images [N, C, H, W]."""


class OtherShape(Refusal):
    """An image has another shape [C, H, W] than those that the guard was fitted on."""

    def __init__(self, name: str, got: list[int], expected: list[int]) -> None:
        size = " × ".join(map(str, expected[1:]))
        super().__init__(
            f"`{name}` should be an image of {size} pixels with {expected[0]} channels after the guard's transform. "
            f"Got {' × '.join(map(str, got[1:]))} with {got[0]}. Resize the images, or fit the guard with a "
            f"`data.transform` that does, such as torchvision.transforms.v2.Resize."
        )


@dataclass(frozen=True)
class FileVerdict:
    """What a guard says of one file; all but `path` and `error` are None where the file cannot be scored.

    Args:
        prediction: name of the predicted class, or its index where classes have no names.
        probability: the largest softmax probability.
        score: higher = more anomalous.
        p_value: share of normal images, the calibration images and the image itself, that score at least as high.
        flagged: whether the score is above the threshold.
        error: why the file could not be scored, in a sentence.
    """

    path: str
    prediction: str | None = None
    probability: float | None = None
    score: float | None = None
    p_value: float | None = None
    flagged: bool | None = None
    error: str | None = None


@dataclass(frozen=True)
class ImageBytes:
    """An image file in memory, with a name for verdicts and messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


COLUMNS = tuple(FileVerdict.__dataclass_fields__)


def image_paths(places: Iterable[str], passed: PassedOver | None = None) -> Iterator[str]:
    """Find image files, one place after the other.

    Args:
        places: files, whatever their suffix; folders, whose image files are taken recursively by name; patterns with
            `*`, `?` or `[...]`, where `**` stands for any folders. A missing file is passed on, so that it gets a
            verdict with an error.
        passed: counts other files in folders; see `core.find_image_files`.
    """
    passed = PassedOver() if passed is None else passed
    for place in places:
        path = os.path.expanduser(place)
        if os.path.isdir(path):
            yield from find_image_files(path, passed)
        elif glob.has_magic(path) and not os.path.lexists(path):
            found = _matching(path)
            yield from image_paths(found, passed) if found else [place]
        else:
            yield path


def score_files(
    guard: ImageScorer,
    paths: Iterable[str | Path | ImageBytes],
    batch_size: int | None = None,
    megapixels: float = MEGAPIXELS,
) -> Iterator[FileVerdict]:
    """Score image files in their order, holding a few batches in memory; yields a verdict for each.

    Files that are missing, no image, damaged, too large, or of another size than the guard's images after its
    transform, have an `error`.

    Args:
        paths: of files, or files in memory; see `image_paths` for folders and patterns.
        batch_size: images that are read from the network together; by default as many as when the guard was calibrated.
        megapixels: larger images are not decoded.

    Raises:
        Refusal: every file so far, a whole batch of them, has another size than the guard's images.
    """
    size = batch_size_of(guard, batch_size)
    limit = PixelLimit(megapixels)
    rows: list[_Decoded] = []
    fits = False  # whether any image had the guard's shape
    with closing(_decoded(guard, paths, limit, ahead=2 * size)) as stream:
        for row in stream:
            rows.append(row)
            fits = fits or row.pixels is not None
            if sum(one.pixels is not None for one in rows) == size or (len(rows) >= 4 * size):
                _refuse_other_shape(rows, fits)
                yield from _verdicts(guard, rows)
                rows = []
    _refuse_other_shape(rows, fits)
    yield from _verdicts(guard, rows)


def batch_size_of(guard: ImageScorer, batch_size: int | None) -> int:
    """Images read together: as many as requested, at least 1, or as when the guard was calibrated."""
    size = guard.about.batch_size if batch_size is None else batch_size
    if size < 1:
        raise Refusal(f"`--batch_size` should be at least 1. Got `--batch_size {size}`.")
    return size


@dataclass(frozen=True)
class ScoredBatch:
    """Verdicts of some files, whether any image had the guard's shape, and the message about the first that had not."""

    verdicts: list[FileVerdict]
    fits: bool
    other_shape: str | None


def score_batch(
    guard: ImageScorer, paths: Sequence[str | Path | ImageBytes], megapixels: float = MEGAPIXELS
) -> ScoredBatch:
    """Score a few files, all in memory at once; other shapes are noted in the verdicts and not refused."""
    with closing(_decoded(guard, paths, PixelLimit(megapixels), ahead=len(paths))) as stream:
        rows = list(stream)
    wrong = [str(row.error) for row in rows if isinstance(row.error, OtherShape)]
    fits = any(row.pixels is not None for row in rows)
    return ScoredBatch(list(_verdicts(guard, rows)), fits, wrong[0] if wrong else None)


@dataclass(frozen=True)
class _Decoded:
    path: str
    pixels: Tensor | None = None
    error: Refusal | None = None


def _decoded(
    guard: ImageScorer, paths: Iterable[str | Path | ImageBytes], limit: PixelLimit, ahead: int
) -> Generator[_Decoded]:
    """Decode in threads, at most `ahead` files in advance."""
    waiting: deque[Future[_Decoded]] = deque()
    stream = iter(paths)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as pool:
        try:
            waiting.extend(pool.submit(_decode, guard, path, limit) for path in islice(stream, ahead))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_decode, guard, path, limit) for path in islice(stream, 1))
        finally:
            for future in waiting:
                future.cancel()


def _decode(guard: ImageScorer, given: str | Path | ImageBytes, limit: PixelLimit) -> _Decoded:
    path = printable(str(given))
    file = io.BytesIO(given.content) if isinstance(given, ImageBytes) else given
    try:
        with torch.inference_mode(False):
            return _Decoded(path, guard.read(read_picture(file, guard.about.picture, limit, path), path))
    except Refusal as refusal:
        return _Decoded(path, error=refusal)


def _verdicts(guard: ImageScorer, rows: list[_Decoded]) -> Iterator[FileVerdict]:
    good = [row for row in rows if row.pixels is not None]
    found = {id(row): verdict for row, verdict in zip(good, _scored(guard, good), strict=True)}
    for row in rows:
        yield found.get(id(row)) or FileVerdict(row.path, error=str(row.error))


def _scored(guard: ImageScorer, rows: list[_Decoded]) -> list[FileVerdict]:
    """Score a batch; where that is refused, one image after the other, so that only the bad ones are lost."""
    if not rows:
        return []
    try:
        verdict = guard(torch.stack([row.pixels for row in rows if row.pixels is not None]))
    except Refusal as refusal:
        if len(rows) == 1:
            return [FileVerdict(rows[0].path, error=str(refusal))]
        return [one for row in rows for one in _scored(guard, [row])]
    names = guard.about.classes
    return [
        FileVerdict(
            row.path,
            prediction=names[number] if names else str(number),
            probability=float(verdict.probabilities[index]),
            score=float(verdict.scores[index]),
            p_value=float(verdict.p_values[index]),
            flagged=bool(verdict.flagged[index]),
        )
        for index, (row, number) in enumerate(zip(rows, verdict.predictions.tolist(), strict=True))
    ]


def _refuse_other_shape(rows: list[_Decoded], fits: bool) -> None:
    wrong = [row.error for row in rows if isinstance(row.error, OtherShape)]
    if wrong and not fits:
        raise wrong[0]


def _matching(pattern: str) -> list[str]:
    """Paths that match, sorted; a file reachable through cyclic links is listed once, by its shortest path."""
    try:
        found = glob.glob(pattern, recursive=True)
    except (ValueError, RecursionError):  # a null character, or too many nested folders
        return []
    if "**" in pattern:
        shortest = {os.path.realpath(path): path for path in sorted(found, key=len, reverse=True)}
        found = list(shortest.values())
    return sorted(found)
