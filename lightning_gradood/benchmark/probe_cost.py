"""What one probe alone costs an image: time, and memory beyond the network."""

import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import profiler as autograd_profiler
from torch.profiler import ProfilerActivity, profile

from lightning_gradood.probes import Probe


def probe_cost(probe: Probe, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Read a probe three times: to warm up, for the time and for the memory.

    Args:
        probe: prepared.
        network: in eval mode, on the images' device.
        images: float32 [N, C, H, W].

    Returns:
        `milliseconds` an image, wall clock, and `mebibytes` an image, what tensors hold at their peak beyond what was held
        before, records included. No `mebibytes` where another profiler is at work.
    """
    probe(network, images)
    started = _now(images.device)
    probe(network, images)
    cost = {"milliseconds": 1000 * (_now(images.device) - started) / len(images)}
    measure = _peak_on_gpu if images.device.type == "cuda" else _peak_on_cpu
    peak = measure(lambda: probe(network, images), images.device)
    if peak is not None:
        cost["mebibytes"] = peak / 2**20 / len(images)
    return cost


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_on_gpu(work: Callable[[], object], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(work: Callable[[], object], device: torch.device) -> int | None:
    """From the allocator's own log; the process' size grows by steps and never shrinks."""
    if autograd_profiler._is_profiler_enabled:
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes about drivers that are not there
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        work()
    events = log.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
