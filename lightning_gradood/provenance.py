"""Gather what a report says beside its numbers: where they come from."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch

import lightning_gradood
from lightning_gradood.callbacks import Entry
from lightning_gradood.data import ImageDataModule, LoadedSource, as_float
from lightning_gradood.detectors import Outcome
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report import DetectionReport
from lightning_gradood.tasks import ClassificationTask

_PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-learn")
_SAMPLES = 12  # images per row of the sample sheet


def make_report(
    experiment: str,
    model: ClassificationTask,
    datamodule: ImageDataModule,
    entries: Sequence[Entry],
    records: dict[str, Records],
    outcomes: list[Outcome],
) -> DetectionReport:
    """Put outcomes together with representations, sample images and provenance.

    Args:
        experiment: its name.
        model: the task that holds the classifier.
        datamodule: sources and splits.
        entries: where the records lie.
        records: of every source, the normal one among them.
        outcomes: one per anomaly source and detector.
    """
    column = next((name for name in records[NORMAL].probes if name.startswith("gradients/")), None)
    sources = datamodule.detection_sources
    return DetectionReport(
        experiment=experiment,
        outcomes=outcomes,
        norms={source: table.probe(column) for source, table in records.items()} if column else {},
        layer_names=records[NORMAL].names(column) if column else [],
        samples={name: _pixels(source) for name, source in sources.items()},
        manifest=datamodule.manifest.counts,
        provenance={
            "classifier": classifier_accuracy(records[NORMAL]),
            "records": {f"{entry.source}/{entry.probe}": entry.key for entry in entries},
            "command": " ".join(sys.argv),
            "versions": _versions(),
            "device": str(model.device),
        },
    )


def classifier_accuracy(normal: Records) -> dict[str, float | int]:
    """Accuracy on the labelled normal images and their number, from the predictions that the records keep."""
    labels, predictions = normal.column("label"), normal.column("prediction")
    known = labels >= 0
    accuracy = float(np.mean(labels[known] == predictions[known])) if known.any() else float("nan")
    return {"images": int(known.sum()), "accuracy": accuracy} if known.any() else {"images": 0}


def _versions() -> dict[str, str]:
    own = {"lightning_gradood": lightning_gradood.__version__, "python": platform.python_version()}
    return own | {package: version(package) for package in _PACKAGES}


def _pixels(source: LoadedSource) -> np.ndarray:
    """A few images spread over the source, uint8 [k, H, W, C]."""
    rows = np.unique(np.linspace(0, len(source) - 1, _SAMPLES).astype(int))
    images = (as_float(source.images(rows.tolist())) * 255).round().to(torch.uint8)
    return np.asarray(images.permute(0, 2, 3, 1).numpy())
