"""Scoring image files with several processes of one machine, each with its own guard."""

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

    Scores are those of one process up to the order of summation, about 1e-6 of their size; identical if every file can
    be read and each process has as many threads as one alone would have. A script that calls this needs the usual
    `__main__` guard, as each process imports it. Arguments as for `score_files`; of `guard`, threshold and batch size
    are used.

    Raises:
        Refusal: as for `score_files`; or a process has ended, e.g. for lack of memory.
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
    """Yield verdicts of tasks in their order, of which `ahead` are under way."""
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
    """`cuda:0`, `cuda:1` and so on in turn for `cuda`; any other device unchanged."""
    return f"cuda:{number % torch.cuda.device_count()}" if device == "cuda" else device


_guard: Guard | None = None  # of a process that scores


def _begin(processes: Processes, devices: SimpleQueue[str], threshold: float) -> None:
    global _guard
    for number in (signal.SIGINT, signal.SIGHUP):  # the first process ends the others
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, cpu_count() // processes.number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown by the first process
        _guard = Guard.load(processes.folder, processes.trust, devices.get()).with_threshold(threshold)


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that is killed."""
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
