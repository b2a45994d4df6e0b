"""The callback that benchmark runs have: it reports without figures and keeps what the page is drawn from."""

import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lightning_gradood.benchmark.first_layer import first_layer
from lightning_gradood.benchmark.material import Material
from lightning_gradood.callbacks import ProbeCallback, ReportCallback
from lightning_gradood.data import as_float
from lightning_gradood.networks import state_digest
from lightning_gradood.probes import Probe
from lightning_gradood.report import DetectionReport, replacing

_IMAGES = 16  # of a timed reading
_ROWS = 1000  # of norms that a box plot is drawn from


class KeepMaterial(ReportCallback):
    """Write results as `ReportCallback` does, and `material.npz` before them.

    If the experiment file has a `ReportCallback` of its own, that one reports and this one only keeps.
    """

    def __init__(self) -> None:
        super().__init__(figures=False)
        self._probes: dict[str, dict[str, float]] = {}

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time each probe alone, on the device where it has just been read; those that were read before are not timed."""
        if not trainer.is_global_zero:
            return
        source = trainer.datamodule.normal_source  # type: ignore[attr-defined]  # set by the data connector
        images = as_float(source.images(range(min(_IMAGES, len(source))))).to(pl_module.device)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ProbeCallback):
                read = {entry.probe for entry in callback.missing}
                timed = [probe for probe in callback.probes if probe.name in read]
                self._probes = {probe.name: _cost(probe, pl_module.network, images) for probe in timed}  # type: ignore[arg-type]

    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        """Keep the arrays; report, unless another callback does."""
        folder = Path(trainer.default_root_dir)
        with replacing(Material.path(folder)) as file:
            file.write(self._material(trainer, report).to_bytes())
        others = [one for one in trainer.callbacks if isinstance(one, ReportCallback) and one is not self]  # type: ignore[attr-defined]
        if not others:
            super().on_detect_end(trainer, report)

    def _material(self, trainer: pl.Trainer, report: DetectionReport) -> Material:
        network = trainer.lightning_module.network
        scores: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for outcome in report.outcomes:
            if not outcome.transferred:
                test = outcome.scores["test"]
                scores.setdefault(outcome.source, {})[outcome.detector] = {"labels": test.labels, "scores": test.scores}
        return Material(
            weights=state_digest(network),  # type: ignore[arg-type]
            scores=scores,
            norms={source: values[_spread(len(values))] for source, values in report.norms.items()},
            layer_names=report.layer_names,
            samples=report.samples,
            first_layer=first_layer(network, trainer.datamodule.detection_sources),  # type: ignore[arg-type,attr-defined]
            probes=self._probes,
        )


def _spread(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, min(rows, _ROWS)).astype(int))


def _cost(probe: Probe, network: torch.nn.Module, images: Tensor) -> dict[str, float]:
    """Milliseconds an image of the second of two readings, and on a GPU mebibytes an image at its peak."""
    on_gpu = images.device.type == "cuda"
    probe(network, images)
    if on_gpu:
        torch.cuda.synchronize(images.device)
        before = torch.cuda.memory_allocated(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
    started = time.perf_counter()
    probe(network, images)
    if on_gpu:
        torch.cuda.synchronize(images.device)
    cost = {"milliseconds": 1000 * (time.perf_counter() - started) / len(images)}
    if on_gpu:
        cost["mebibytes"] = (torch.cuda.max_memory_allocated(images.device) - before) / 2**20 / len(images)
    return cost
