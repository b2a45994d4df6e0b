"""What a guard says of images, and scoring files in one process or several: one verdict for each file, readable or not."""

from __future__ import annotations

import glob
import io
import itertools
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from joblib import cpu_count
from torch import Tensor

from lightning_gradood.core import (
    MEGAPIXELS,
    PassedOver,
    PixelLimit,
    Refusal,
    find_image_files,
    printable,
    read_picture,
)
from lightning_gradood.records import read_rows

if TYPE_CHECKING:  # `Guard.score_files` imports this file
    from lightning_gradood.guard.guard import Guard
    from lightning_gradood.metrics import ClassThresholds

Result = TypeVar("Result")
_THREADS = 4  # that decode
_AHEAD = 2  # batches that are decoded in advance, and of each process that wait or are read


@dataclass(frozen=True)
class Verdict:
    """What a guard says of N images.

    `scores` float64, higher = more anomalous; `p_values` float64 in (0, 1], the share of normal images, the calibration
    images and the image itself, that score at least as high; `flagged` bool, whether the score is above the threshold;
    `predictions` int64, the classifier's; `probabilities` float64, the largest of the softmax; `classes` the names of all
    classes, or none.
    """

    scores: np.ndarray
    p_values: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image in plain Python values, e.g. for JSON or a data frame, with the columns of `score`'s tables."""
        names = [self.classes[one] if self.classes else str(one) for one in self.predictions.tolist()]
        arrays = (self.probabilities, self.scores, self.p_values, self.flagged)
        columns = ("prediction", "probability", "score", "p_value", "flagged")
        return [
            dict(zip(columns, row, strict=True)) for row in zip(names, *(one.tolist() for one in arrays), strict=True)
        ]


@dataclass(frozen=True)
class FileVerdict:
    """What a guard says of one file; all but `path` and `error` are None where the file cannot be scored.

    Args:
        prediction: name of the predicted class, or its index where classes have no names.
        probability: the largest softmax probability.
        score: higher = more anomalous.
        p_value: share of normal images, the calibration images and the image itself, that score at least as high.
        flagged: whether the score is above the threshold, see `Verdict`.
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


def read_scores(path: Path) -> tuple[dict[str, list[Any]], str]:
    """Read a table of scores: its columns, and the guard that gave them, see `Description.identity`; empty if not said."""
    table = read_rows(path)
    guards = sorted({one for one in table.get("guard", []) if one})
    if len(guards) > 1 or "detector" in table:
        got = (
            f"those of {', '.join(guards)}"
            if guards
            else "those of a run's detectors; its guard's are in guard_scores.parquet"
        )
        raise Refusal(
            f"`{path}` should hold scores of one guard, as `score` writes them. Got {got}. Name another table."
        )
    return table, "".join(guards)


ImageFile = str | Path | ImageBytes
ImageFiles = ImageFile | Iterable[ImageFile]


def image_paths(places: str | Path | Iterable[str | Path], passed: PassedOver | None = None) -> Iterator[str]:
    """Find image files, one place after the other.

    Args:
        places: one or several: files, whatever their suffix; folders, whose image files are taken recursively by name;
            patterns with `*`, `?` or `[...]`, where `**` stands for any folders. A missing file is passed on, so that it
            gets a verdict with an error.
        passed: counts other files in folders; see `core.find_image_files`.
    """
    passed = PassedOver() if passed is None else passed
    for place in [places] if isinstance(places, str | Path) else places:
        path = os.path.expanduser(place)
        if os.path.isdir(path):
            yield from find_image_files(path, passed)
        elif glob.has_magic(path) and not os.path.lexists(path):
            found = sorted(glob.glob(path, recursive=True))
            yield from image_paths(found, passed) if found else [path]
        else:
            yield path


def score_files(
    guard: Guard, paths: ImageFiles, batch_size: int | None = None, megapixels: float = MEGAPIXELS
) -> Iterator[FileVerdict]:
    """Score image files in their order, see `Guard.score_files`."""
    limit, size = PixelLimit(megapixels), batch_size or guard.about.batch_size
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as pool:
        tasks = (pool.submit(_decode, guard, path, limit) for path in _files(paths))
        with closing(_results(tasks, _AHEAD * size)) as files:
            while batch := list(itertools.islice(files, size)):
                yield from _scored(guard, batch)


def score_files_on_processes(
    guard: Guard,
    paths: ImageFiles,
    load: Callable[[str], Guard],
    devices: Sequence[str],
    batch_size: int | None = None,
    megapixels: float = MEGAPIXELS,
) -> Iterator[FileVerdict]:
    """Score image files as `Guard.score_files` does, each batch on the next process that is free.

    Scores are those of one process up to the order of summation, about 1e-6 of their size; identical if each process
    has as many threads as one alone would have. A script that calls this needs the usual `__main__` guard, as each
    process imports it.

    Args:
        guard: whose threshold and batch size are used.
        paths: as for `Guard.score_files`.
        load: loads the same guard onto a device, such as `functools.partial(Guard.load, folder, trust)`.
        devices: one for each process of this machine. Threads of the CPU are divided among them.
        batch_size: files whose images are read together; by default as many as when the guard was calibrated.
        megapixels: larger images are not decoded.

    Raises:
        Refusal: a process has ended, e.g. for lack of memory.
    """
    context = get_context("spawn")  # a copy of this process would share its threads' locks and its CUDA context
    queue: SimpleQueue[str] = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    stream, size, number = iter(_files(paths)), batch_size or guard.about.batch_size, len(devices)
    batches = iter(lambda: list(itertools.islice(stream, size)), [])
    with ProcessPoolExecutor(
        number, context, _begin, (load, queue, number, guard.threshold, guard.class_thresholds)
    ) as pool:
        tasks = (pool.submit(_score, batch, megapixels) for batch in batches)
        with closing(_results(tasks, _AHEAD * number)) as verdicts:
            try:
                yield from itertools.chain.from_iterable(verdicts)
            except BrokenProcessPool as error:
                raise Refusal(
                    f"`--processes {number}` should be few enough for this machine. Got one that ended early, perhaps for lack "
                    "of memory. Take fewer."
                ) from error


def _files(paths: ImageFiles) -> Iterable[ImageFile]:
    """The files of one path, which may be a folder or a pattern, or those given."""
    if isinstance(paths, str | Path):
        return image_paths(paths)
    return [paths] if isinstance(paths, ImageBytes) else paths


def _results(tasks: Iterator[Future[Result]], ahead: int) -> Generator[Result]:
    """Results of tasks in their order, of which `ahead` are under way; those left are cancelled on closing."""
    waiting = deque(itertools.islice(tasks, ahead))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(itertools.islice(tasks, 1))
    finally:
        for future in waiting:
            future.cancel()


def _decode(guard: Guard, given: ImageFile, limit: PixelLimit) -> tuple[str, Tensor | Refusal]:
    """A file's path, and its image as the network takes it or why there is none."""
    path = printable(str(given))
    file = io.BytesIO(given.content) if isinstance(given, ImageBytes) else given
    try:
        with torch.inference_mode(False):
            return path, guard.read(read_picture(file, guard.about.picture, limit, path), path)
    except Refusal as refusal:
        return path, refusal


def _scored(guard: Guard, files: Sequence[tuple[str, Tensor | Refusal]]) -> list[FileVerdict]:
    """Score images together; where that is refused, one after the other, so that only the bad ones are lost."""
    images = [got for _, got in files if isinstance(got, Tensor)]
    try:
        found = guard(torch.stack(images) if images else torch.empty(0, *guard.about.image_shape))
    except Refusal as refusal:
        if len(files) == 1:
            return [FileVerdict(files[0][0], error=str(refusal))]
        return [one for file in files for one in _scored(guard, [file])]
    rows = iter(found.rows())
    return [
        FileVerdict(path, **next(rows)) if isinstance(got, Tensor) else FileVerdict(path, error=str(got))
        for path, got in files
    ]


_guard: Guard  # of a process that scores, from when it has begun


def _begin(
    load: Callable[[str], Guard],
    devices: SimpleQueue[str],
    processes: int,
    threshold: float,
    class_thresholds: ClassThresholds | None,
) -> None:
    global _guard
    for number in (signal.SIGINT, signal.SIGHUP):  # the first process ends the others
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, cpu_count() // processes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown by the first process
        _guard = load(devices.get()).with_threshold(threshold)
    _guard.class_thresholds = class_thresholds


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that is killed."""
    if parent := parent_process():
        parent.join()
    os._exit(1)


def _score(paths: Sequence[ImageFile], megapixels: float) -> list[FileVerdict]:
    return list(score_files(_guard, paths, len(paths), megapixels))
