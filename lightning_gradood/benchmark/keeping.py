"""The callback that benchmark runs have: it reports without figures and keeps what the page is drawn from."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np

from lightning_gradood.benchmark.first_layer import first_layer
from lightning_gradood.benchmark.material import Material
from lightning_gradood.benchmark.probe_cost import probe_cost
from lightning_gradood.callbacks import ProbeCallback, ReportCallback
from lightning_gradood.data import as_float
from lightning_gradood.networks import state_digest
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
        """Time and memory of each probe alone, on the device where it has just been read; not of those that were read before."""
        if not trainer.is_global_zero:
            return
        source = trainer.datamodule.normal_source  # type: ignore[attr-defined]  # set by the data connector
        images = as_float(source.images(range(min(_IMAGES, len(source))))).to(pl_module.device)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ProbeCallback):
                read = {entry.probe for entry in callback.missing}
                timed = [probe for probe in callback.probes if probe.name in read]
                self._probes = {probe.name: probe_cost(probe, pl_module.network, images) for probe in timed}  # type: ignore[arg-type]

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
