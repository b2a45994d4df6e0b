"""Where the numbers of a report come from: images, records, versions, command."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch

import lightning_gradood
from lightning_gradood.data import ImageDataModule, as_float
from lightning_gradood.evaluation import Outcome, attack_numbers
from lightning_gradood.extraction import Entry
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.bundle import DetectionReport
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
    drawn = {source: records[source] for source in [NORMAL, *datamodule.anomaly_names]}
    samples = {source: _samples(source, datamodule, table) for source, table in drawn.items()}
    return DetectionReport(
        experiment=experiment,
        outcomes=outcomes,
        norms={source: table.probe(column) for source, table in drawn.items()} if column else {},
        layer_names=records[NORMAL].names(column) if column else [],
        samples={source: images for source, images in samples.items() if images is not None},
        manifest=datamodule.manifest.counts,
        provenance={
            "classifier": classifier_accuracy(records[NORMAL]),
            "perturbations": {
                name: {**twins.attack.describe(), "images": len(twins.ids), **attack_numbers(records[name])}
                for name, twins in datamodule.twins.items()
            },
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


def _samples(source: str, datamodule: ImageDataModule, records: Records) -> np.ndarray | None:
    """A few images spread over the source, uint8 [k, H, W, C]; None for those made while probing and not kept."""
    loaded = datamodule.detection_sources.get(source)
    rows = np.unique(np.linspace(0, len(records) - 1, _SAMPLES).astype(int))
    if loaded is not None:
        images = (as_float(loaded.images(rows.tolist())) * 255).round().to(torch.uint8).numpy()
    elif datamodule.keep_pixels:
        kept = records.probe(f"pixels/{datamodule.keep_pixels}")[rows].reshape(
            len(rows), *datamodule.normal_source.shape
        )
        images = kept if kept.dtype == np.uint8 else np.round(kept.astype(np.float32) * 255).astype(np.uint8)
    else:
        return None
    return np.asarray(images.transpose(0, 2, 3, 1))
