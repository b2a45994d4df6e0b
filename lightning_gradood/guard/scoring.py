"""Scoring image files with a guard, in one process or several: one verdict for each file, readable or not."""

from __future__ import annotations

import glob
import io
import itertools
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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

if TYPE_CHECKING:  # `Guard.score_files` imports this file
    from lightning_gradood.guard.guard import Guard

Result = TypeVar("Result")
_THREADS = 4  # that decode
_AHEAD = 2  # batches that are decoded in advance, and of each process that wait or are read
_FEW = 32  # files of another size than the guard's images after which the others are not looked at


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


ImageFile = str | Path | ImageBytes


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


def score_files(
    guard: Guard, paths: Iterable[ImageFile], batch_size: int | None = None, megapixels: float = MEGAPIXELS
) -> Iterator[FileVerdict]:
    """Score image files in their order, holding a few batches in memory; yields a verdict for each.

    Files that are missing, no image, damaged, too large, or of another size than the guard's images after its
    transform, have an `error`.

    Args:
        paths: of files, or files in memory; see `image_paths` for folders and patterns.
        batch_size: files whose images are read from the network together; by default as many as when the guard was
            calibrated.
        megapixels: larger images are not decoded.

    Raises:
        Refusal: no image among the first 32, or among all, has the size of the guard's images.
    """
    return _in_order(_batches(guard, paths, _batch_size(guard, batch_size), megapixels))


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, each of which loads a guard.

    Args:
        number: how many. Threads of the CPU are divided among them.
        folder: of the guard.
        trust: packages of your own whose classes it may name.
        device: where the networks run; on `cuda`, processes take the devices in turn.
    """

    number: int
    folder: str | Path
    trust: Sequence[str] = ()
    device: str = "cpu"

    def device_of(self, number: int) -> str:
        """`cuda:0`, `cuda:1` and so on in turn for `cuda`; any other device unchanged."""
        return f"cuda:{number % torch.cuda.device_count()}" if self.device == "cuda" else self.device


def score_files_on_processes(
    guard: Guard,
    paths: Iterable[ImageFile],
    processes: Processes,
    batch_size: int | None = None,
    megapixels: float = MEGAPIXELS,
) -> Iterator[FileVerdict]:
    """Score image files as `score_files` does, each batch on the next process that is free.

    Scores are those of one process up to the order of summation, about 1e-6 of their size; identical if each process
    has as many threads as one alone would have. A script that calls this needs the usual `__main__` guard, as each
    process imports it. Arguments as for `score_files`; of `guard`, threshold and batch size are used.

    Raises:
        Refusal: as for `score_files`; or a process has ended, e.g. for lack of memory.
    """
    return _in_order(_batches_of(processes, guard, paths, _batch_size(guard, batch_size), megapixels))


def _batch_size(guard: Guard, batch_size: int | None) -> int:
    size = guard.about.batch_size if batch_size is None else batch_size
    if size < 1:
        raise Refusal(f"`--batch_size` should be at least 1. Got `--batch_size {size}`.")
    return size


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


@dataclass(frozen=True)
class _Decoded:
    path: str
    pixels: Tensor | None = None
    error: Refusal | None = None


def _decoded(guard: Guard, paths: Iterable[ImageFile], megapixels: float, ahead: int) -> Generator[_Decoded]:
    """Decode in threads, `ahead` files in advance."""
    limit = PixelLimit(megapixels)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as pool:
        yield from _results((pool.submit(_decode, guard, path, limit) for path in paths), ahead)


def _decode(guard: Guard, given: ImageFile, limit: PixelLimit) -> _Decoded:
    path = printable(str(given))
    file = io.BytesIO(given.content) if isinstance(given, ImageBytes) else given
    try:
        with torch.inference_mode(False):
            return _Decoded(path, guard.read(read_picture(file, guard.about.picture, limit, path), path))
    except Refusal as refusal:
        return _Decoded(path, error=refusal)


@dataclass(frozen=True)
class _Batch:
    """Verdicts of some files, whether any image had the guard's shape, and the message about the first that had not."""

    verdicts: list[FileVerdict]
    fits: bool
    other_shape: str | None

    @classmethod
    def of(cls, verdicts: list[FileVerdict], rows: Sequence[_Decoded]) -> _Batch:
        shapes = (str(row.error) for row in rows if isinstance(row.error, OtherShape))
        return cls(verdicts, any(row.error is None for row in rows), next(shapes, None))


def _batches(guard: Guard, paths: Iterable[ImageFile], size: int, megapixels: float) -> Generator[_Batch]:
    with closing(_decoded(guard, paths, megapixels, _AHEAD * size)) as stream:
        while rows := list(itertools.islice(stream, size)):
            yield _Batch.of(_scored(guard, rows), rows)


def _scored(guard: Guard, rows: Sequence[_Decoded]) -> list[FileVerdict]:
    """Score images together; where that is refused, one after the other, so that only the bad ones are lost."""
    ready = [row.pixels for row in rows if row.pixels is not None]
    try:
        verdict = guard.score(torch.stack(ready) if ready else torch.empty(0))
    except Refusal as refusal:
        if len(rows) == 1:
            return [FileVerdict(rows[0].path, error=str(refusal))]
        return [one for row in rows for one in _scored(guard, [row])]
    names, number = guard.about.classes, itertools.count()
    return [
        FileVerdict(row.path, error=str(row.error)) if row.error else verdict.of_file(next(number), row.path, names)
        for row in rows
    ]


def _in_order(batches: Generator[_Batch]) -> Iterator[FileVerdict]:
    """Yield the verdicts of batches; a Refusal if the first few images, or all, have another size than the guard's."""
    held: list[FileVerdict] = []
    other_shape, fits = None, False
    with closing(batches):
        for batch in batches:
            held += batch.verdicts
            fits, other_shape = fits or batch.fits, other_shape or batch.other_shape
            if fits or other_shape is None:
                yield from held
                held = []
            elif len(held) >= _FEW:
                break
    if held:
        raise Refusal(str(other_shape))


def _batches_of(
    processes: Processes, guard: Guard, paths: Iterable[ImageFile], size: int, megapixels: float
) -> Generator[_Batch]:
    context = get_context("spawn")  # a copy of this process would share its threads' locks and its CUDA context
    devices: SimpleQueue[str] = context.SimpleQueue()
    for number in range(processes.number):
        devices.put(processes.device_of(number))
    start = (type(guard), processes, devices, guard.threshold)
    stream = iter(paths)
    batches = iter(lambda: list(itertools.islice(stream, size)), [])
    with ProcessPoolExecutor(processes.number, context, _begin, start) as pool:
        tasks = (pool.submit(_score, batch, megapixels) for batch in batches)
        try:
            yield from _results(tasks, _AHEAD * processes.number)
        except BrokenProcessPool as error:
            raise Refusal(
                f"`--processes {processes.number}` should be processes that load the guard and score images. Got one "
                "that has ended, perhaps for lack of memory. Take fewer."
            ) from error


_guard: Guard | None = None  # of a process that scores


def _begin(kind: type[Guard], processes: Processes, devices: SimpleQueue[str], threshold: float) -> None:
    global _guard
    for number in (signal.SIGINT, signal.SIGHUP):  # the first process ends the others
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, cpu_count() // processes.number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown by the first process
        _guard = kind.load(processes.folder, processes.trust, devices.get()).with_threshold(threshold)


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that is killed."""
    if parent := parent_process():
        parent.join()
    os._exit(1)


def _score(paths: Sequence[ImageFile], megapixels: float) -> _Batch:
    if _guard is None:
        raise RuntimeError("A process loads its guard in `_begin`.")
    rows = list(_decoded(_guard, paths, megapixels, len(paths)))
    return _Batch.of(_scored(_guard, rows), rows)
