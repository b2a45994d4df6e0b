"""Arrays that a benchmark run stores for its page: gradients, weights, sample images, the cost of each probe."""

import io
import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import profiler as autograd_profiler
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from lightning_gradood.core import Refusal, as_float, atomic_write, parse_json
from lightning_gradood.extraction import ProbeCallback
from lightning_gradood.networks import state_digest
from lightning_gradood.probes import Probe
from lightning_gradood.report import DetectionReport, GuardSummary, ReportCallback

_FILE = "artifacts.npz"
_INDEX = "index"  # of the file: JSON with the structure, arrays replaced by their numbers


@dataclass(frozen=True)
class RunArtifacts:
    """Arrays that one run stores in its folder; fields as in `DetectionReport`, rows of `extremes` as dicts.

    `weights` is the classifier's digest; `norms` are of at most 1,000 images a source; `probes` is probe to
    `milliseconds` and, where the device counts them, `mebibytes` an image.
    """

    weights: str
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    layer_names: list[str] = field(default_factory=list)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    extremes: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_layer: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def path(folder: Path) -> Path:
        """The file in a run's folder."""
        return folder / _FILE

    @classmethod
    def read(cls, folder: Path) -> "RunArtifacts":
        """Read a run's file; a missing or damaged one is refused."""
        try:
            with np.load(cls.path(folder), allow_pickle=False) as arrays:
                return cls(**_filled(parse_json(str(arrays[_INDEX])), arrays))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
            raise Refusal(
                f"{cls.path(folder)} should be as a run of `benchmark` has written it. Got what cannot be read ({error}). "
                "Delete it to have the run made again."
            ) from error

    def to_bytes(self) -> bytes:
        """The file's content."""
        arrays: dict[str, np.ndarray] = {}
        index = _emptied(vars(self), arrays)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{_INDEX: np.array(json.dumps(index))}, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def _emptied(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {key: _emptied(item, arrays) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {_INDEX: name}
    return value


def _filled(value: Any, arrays: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if set(value) == {_INDEX}:
        return arrays[value[_INDEX]]
    return {key: _filled(item, arrays) for key, item in value.items()}


def probe_cost(probe: Probe, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Measure `milliseconds` and peak `mebibytes` an image of a prepared probe on images float32 [N, C, H, W].

    Wall clock after a warm-up; memory beyond what was held before, records included, and missing where another profiler
    is active.
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
    """From the allocator's log: the process' size grows in steps and never shrinks."""
    if autograd_profiler._is_profiler_enabled:
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it warns of missing drivers
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        work()
    events = log.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


_IMAGES = 16  # of a timed reading
_ROWS = 1000  # of norms that a box plot is drawn from


class StoreArtifacts(ReportCallback):
    """Write results as `ReportCallback` does, and before them `artifacts.npz`.

    It holds time and memory of each probe that was just read. If the experiment file has a `ReportCallback` of its own,
    that one reports and this one only stores.
    """

    def __init__(self) -> None:
        super().__init__(figures=False)
        self._probes: dict[str, dict[str, float]] = {}
        self._probing: ProbeCallback | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._probing = next((one for one in callbacks if isinstance(one, ProbeCallback)), None)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or self._probing is None:
            return
        reading = self._probing.reader
        source = reading.data.sources.normal
        images = as_float(source.images(range(min(_IMAGES, len(source))))).to(pl_module.device)
        read = {entry.probe for entry in reading.plan.missing}
        timed = [probe for probe in self._probing.probes if probe.name in read]
        self._probes = {probe.name: probe_cost(probe, reading.network, images) for probe in timed}

    @override
    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        folder = Path(trainer.default_root_dir)
        with atomic_write(RunArtifacts.path(folder)) as file:
            file.write(self._artifacts(report).to_bytes())
        report.provenance["probes"] = self._probes  # the run's page shows them
        if not self._others(trainer):
            super().on_detect_end(trainer, report)

    @override
    def on_guard_end(self, trainer: pl.Trainer, report: DetectionReport, guard: GuardSummary) -> None:
        if not self._others(trainer):
            super().on_guard_end(trainer, report, guard)

    def _others(self, trainer: pl.Trainer) -> list[ReportCallback]:
        return [one for one in trainer.callbacks if isinstance(one, ReportCallback) and one is not self]  # type: ignore[attr-defined]

    def _artifacts(self, report: DetectionReport) -> RunArtifacts:
        if self._probing is None:
            raise RuntimeError("StoreArtifacts stores what `Trainer.detect` has read in a predict loop before.")
        return RunArtifacts(
            weights=state_digest(self._probing.reader.network),
            norms={source: values[_spread(len(values))] for source, values in report.norms.items()},
            layer_names=report.layer_names,
            samples=report.samples,
            extremes={
                detector: {name: vars(row) for name, row in rows.items()} for detector, rows in report.extremes.items()
            },
            first_layer=report.first_layer,
            probes=self._probes,
        )


def _spread(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, min(rows, _ROWS)).astype(int))
