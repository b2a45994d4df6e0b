"""Scoring image files with several processes of one machine, each of which loads the guard for itself."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from joblib import cpu_count

from lightning_gradood.core import MEGAPIXELS, Refusal
from lightning_gradood.guard.files import FileVerdict, ImageBytes, ScoredBatch, batch_size_of, score_batch
from lightning_gradood.guard.guard import Guard

_AHEAD = 2  # batches of each process that wait or are read


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


def score_files_on_processes(
    guard: Guard,
    paths: Iterable[str | Path | ImageBytes],
    processes: Processes,
    batch_size: int | None = None,
    megapixels: float = MEGAPIXELS,
) -> Iterator[FileVerdict]:
    """Score image files as `score_files` does, each batch on the next process that is free.

    Scores are those of one process up to the order in which sums are added up, about 1e-6 of their size; the same to the
    last bit if every file can be read and each process has as many threads as one alone would have. A script that calls this
    does so under `if __name__ == "__main__"`, as each process imports it.

    Args:
        guard: whose threshold and batch size are used.
        paths: of files, or files in memory.
        processes: that read and score them.
        batch_size: images that are read from the network together; by default as many as when the guard was calibrated.
        megapixels: larger images are not decoded.

    Yields:
        A verdict for each file, in the order of `paths`, of which a few batches are held in memory.

    Raises:
        Refusal: as for `score_files`; or a process has ended, e.g. as memory does not suffice for so many.
    """
    size = batch_size_of(guard, batch_size)
    context = get_context("spawn")  # a copy of this process would share its threads' locks and its CUDA context
    devices: SimpleQueue[str] = context.SimpleQueue()
    for number in range(processes.number):
        devices.put(_device(processes.device, number))
    stream = iter(paths)
    batches = iter(lambda: tuple(islice(stream, size)), ())
    with ProcessPoolExecutor(processes.number, context, _begin, (processes, devices, guard.threshold)) as pool:
        tasks = (pool.submit(_score, batch, megapixels) for batch in batches)
        try:
            yield from _in_order(tasks, _AHEAD * processes.number)
        except BrokenProcessPool as error:
            raise Refusal(
                f"`--processes {processes.number}` should be processes that load the guard and score images. Got one that has "
                "ended, perhaps for lack of memory. Take fewer."
            ) from error


def _in_order(tasks: Iterator[Future[ScoredBatch]], ahead: int) -> Iterator[FileVerdict]:
    """The verdicts of tasks, of which `ahead` are under way."""
    waiting, fits = deque(islice(tasks, ahead)), False
    try:
        while waiting:
            batch = waiting.popleft().result()
            fits = fits or batch.fits
            if batch.other_shape is not None and not fits:
                raise Refusal(batch.other_shape)
            yield from batch.verdicts
            waiting.extend(islice(tasks, 1))
    finally:
        for future in waiting:
            future.cancel()


def _device(device: str, number: int) -> str:
    """`cuda` for one process after the other, `cuda:0`, `cuda:1` and so on; any other device as it is."""
    return f"cuda:{number % torch.cuda.device_count()}" if device == "cuda" else device


_guard: Guard | None = None  # of a process that scores


def _begin(processes: Processes, devices: SimpleQueue[str], threshold: float) -> None:
    global _guard
    for number in (signal.SIGINT, signal.SIGHUP):  # the first process ends the others
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, cpu_count() // processes.number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first process has shown them
        _guard = Guard.load(processes.folder, processes.trust, devices.get()).with_threshold(threshold)


def _end_with_parent() -> None:
    """End with the process that started this one, which may be killed without a word."""
    if parent := parent_process():
        parent.join()
    os._exit(1)


def _score(paths: Sequence[str | Path | ImageBytes], megapixels: float) -> ScoredBatch:
    if _guard is None:
        raise RuntimeError("A process loads its guard in `_begin`.")
    try:
        return score_batch(_guard, paths, megapixels)
    except Refusal as refusal:  # some kinds cannot be sent to another process
        raise Refusal(str(refusal)) from None
