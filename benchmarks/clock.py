"""Time and memory of one call: seconds of the CPU, of the clock or of CUDA; peak bytes above what was there before."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(work: Callable[[], object], device: str) -> float:
    """Time one call.

    On a CPU with one thread it is CPU time, which a neighbour on a shared machine distorts least; with several it is the
    clock's, as CPU time counts threads that wait, and the machine should be quiet.
    """
    if device == "cpu":
        now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = now()
        work()
        return now() - start
    start_event, end_event = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start_event.record()
    work()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event) / 1000


def interleaved(works: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each work, so that drift of the machine hits all alike.

    Each round goes through all of them, in an order of its own: who runs after whom decides what the cache still holds.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    order, chance = list(works), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            times[name].append(seconds(works[name], device))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Peak memory during a call above that before it; on a CPU (Linux only) the first call of a fresh process."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = _resident_peak()
    work()
    return _resident_peak() - before


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
