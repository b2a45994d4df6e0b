"""The data that a detection report is made from, with their provenance."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import lightning_gradood
from lightning_gradood.core import as_float, exact_arithmetic, frozen_network, to_float64
from lightning_gradood.data import ImageDataModule, LoadedSource, class_name
from lightning_gradood.evaluation import Failure, Outcome, attack_numbers
from lightning_gradood.extraction import CacheEntry
from lightning_gradood.gradients import AllOnes
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.names import source_title
from lightning_gradood.tasks import ClassificationTask

MEAN = "mean"  # in place of a source, in numbers that are means over sources


class ImageFacts(NamedTuple):
    """An image's file (empty if it is none), and the names of its class and prediction (indices if they have none)."""

    path: str
    label: str
    prediction: str


@dataclass(frozen=True)
class ImageRow:
    """Images, uint8 [k, H, W, C] with C = 1 or 3, and their scores, float64 [k]."""

    images: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class ImagePairs:
    """Normal images and what an attack made of them, uint8 [k, H, W, C], with the predictions before and after."""

    clean: np.ndarray
    attacked: np.ndarray
    predictions: list[tuple[str, str]]


@dataclass(frozen=True)
class DetectionReport:
    """Outcomes, representations, sample images and provenance of a `detect` run.

    Args:
        outcomes: one per anomaly source and detector, or one per pair of sources under protocol `cross`.
        norms: source, `"normal"` first, to squared L2 gradient norms of the first label design, float64 [n, L]; empty
            where no gradients were probed.
        layer_names: of the L parameter tensors, the columns of `norms`.
        samples: source, `"normal"` first, to a few of its images, uint8 [k, H, W, C] with C = 1 or 3.
        facts: record id to what is known of its image.
        extremes: detector to rows of `test` images: the most anomalous normal ones, and of each source the most normal
            ones.
        pairs: attack to images before and after it, where a run keeps pixels.
        first_layer: what `first_layer` returns.
        features: source to spatial averages of the feature layers, [n, ΣC], columns `feature_names`; empty if no
            detector reads them.
        failures: detectors that have no outcome on a source, with the reason.
        provenance: versions, network, checkpoint, seeds, seconds: what a reader needs to repeat the run.
    """

    experiment: str
    outcomes: list[Outcome]
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    layer_names: list[str] = field(default_factory=list)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, ImageFacts] = field(default_factory=dict)
    extremes: dict[str, dict[str, ImageRow]] = field(default_factory=dict)
    pairs: dict[str, ImagePairs] = field(default_factory=dict)
    first_layer: dict[str, Any] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    feature_names: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def by_detector(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by detector, those trained on one other source apart; both in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.label, []).append(outcome)
    return groups


def not_transferred(outcomes: list[Outcome]) -> list[Outcome]:
    """Leave out the outcomes of detectors that were trained on one other source, which are shown in a matrix."""
    return [outcome for outcome in outcomes if not outcome.transferred]


_PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-learn")
_FEATURES = "features/layers"  # what LID reads
_SAMPLES = 12  # images per row of the sample sheet


def make_report(
    experiment: str,
    model: ClassificationTask,
    datamodule: ImageDataModule,
    entries: Sequence[CacheEntry],
    records: dict[str, Records],
    outcomes: list[Outcome],
) -> DetectionReport:
    """Put outcomes together with representations, sample images and provenance; `records` are of every source."""
    column = next((name for name in records[NORMAL].probes if name.startswith("gradients/")), None)
    shown = {source: records[source] for source in [NORMAL, *datamodule.sources.anomaly_names]}
    samples = {source: _samples(source, datamodule, table) for source, table in shown.items()}
    facts, has_features = image_facts(datamodule, records), all(_FEATURES in table.probes for table in shown.values())
    return DetectionReport(
        experiment=experiment,
        outcomes=outcomes,
        norms={source: table.probe(column) for source, table in shown.items()} if column else {},
        layer_names=records[NORMAL].names(column) if column else [],
        samples={source: images for source, images in samples.items() if images is not None},
        facts=facts,
        extremes=_extremes(outcomes, datamodule, records),
        pairs=_pairs(datamodule, records, facts),
        first_layer=first_layer(model.network, datamodule.sources.clean),
        features={source: table.probe(_FEATURES) for source, table in shown.items()} if has_features else {},
        feature_names=records[NORMAL].names(_FEATURES) if has_features else [],
        provenance=_provenance(datamodule, entries, records),
    )


def _provenance(
    datamodule: ImageDataModule, entries: Sequence[CacheEntry], records: Mapping[str, Records]
) -> dict[str, Any]:
    return {
        "classifier": classifier_accuracy(
            records[NORMAL], datamodule.sources.outputs and max(datamodule.sources.outputs, 2)
        ),
        "perturbations": {
            name: {**made.attack.describe(), "images": len(made.ids), **attack_numbers(records[name])}
            for name, made in datamodule.sources.perturbed.items()
        },
        "records": {f"{entry.source}/{entry.probe}": entry.key for entry in entries},
        "command": _command(),
        "versions": _versions(),
    }


def classifier_accuracy(normal: Records, outputs: int | None = None) -> dict[str, float | int]:
    """Accuracy on labelled normal images, their number, and the number of classes (`outputs`, or those found)."""
    labels, predictions = normal.column("label"), normal.column("prediction")
    known = labels >= 0
    if not known.any():
        return {"images": 0}
    accuracy = float(np.mean(labels[known] == predictions[known]))
    return {"images": int(known.sum()), "accuracy": accuracy, "classes": outputs or len(np.unique(labels[known]))}


def _command() -> str:
    program, *words = sys.argv
    ours = Path(program) == Path(lightning_gradood.__file__).with_name("__main__.py")
    return shlex.join(["python", "-m", "lightning_gradood", *words] if ours else sys.argv)


def _versions() -> dict[str, str]:
    own = {"lightning_gradood": lightning_gradood.__version__, "python": platform.python_version()}
    return own | {package: version(package) for package in _PACKAGES}


def image_facts(datamodule: ImageDataModule, records: Mapping[str, Records]) -> dict[str, ImageFacts]:
    """Map each record's id to its image's file, class and prediction."""
    normal = datamodule.sources.normal
    found: dict[str, ImageFacts] = {}
    for name, table in records.items():
        loaded = datamodule.sources.clean.get(name, normal)
        rows = {one: row for row, one in enumerate(loaded.ids)}
        columns = (table.column(column).tolist() for column in ("id", "origin_id", "label", "prediction"))
        for one, origin, label, prediction in zip(*columns, strict=True):
            path = loaded.path(rows[origin]) if origin in rows else ""
            found[one] = ImageFacts(
                path, class_name(label, loaded.classes), class_name(prediction, datamodule.sources.classes)
            )
    return found


_EXTREMES = 8  # images in a row
_THUMBNAIL = 96  # pixels; larger images are subsampled


def _extremes(
    outcomes: Sequence[Outcome], datamodule: ImageDataModule, records: Mapping[str, Records]
) -> dict[str, dict[str, ImageRow]]:
    """Images of `test` that each detector found hardest, from sources whose images are kept or loaded."""
    found: dict[str, dict[str, ImageRow]] = {}
    for outcome in not_transferred(list(outcomes)):
        rows = found.setdefault(outcome.detector, {})
        test = outcome.scores["test"]
        order = np.argsort(test.scores, kind="stable")
        normal, anomalous = order[test.labels[order] == 0][::-1], order[test.labels[order] == 1]
        wanted = {f"{source_title(outcome.source)}, most normal": (outcome.source, anomalous[:_EXTREMES])}
        if not rows:
            wanted = {"normal, most anomalous": (NORMAL, normal[:_EXTREMES])} | wanted
        for title, (source, places) in wanted.items():
            ids = [test.ids[place] for place in places]
            images = _pixels(source, ids, datamodule, records[source])
            if images is not None and len(images):
                rows[title] = ImageRow(_thumbnails(images), test.scores[places])
    return {detector: rows for detector, rows in found.items() if rows}


def _thumbnails(images: np.ndarray) -> np.ndarray:
    step = max(-(-max(images.shape[1:3]) // _THUMBNAIL), 1)
    return images[:, ::step, ::step]


_PAIRS = 4  # images of each attack


def _pairs(
    datamodule: ImageDataModule, records: Mapping[str, Records], facts: Mapping[str, ImageFacts]
) -> dict[str, ImagePairs]:
    found = {}
    for name, made in datamodule.sources.perturbed.items():
        if not (datamodule.keep_pixels and made.adversarial and name in datamodule.sources.anomaly_names):
            continue
        rows = np.unique(np.linspace(0, len(records[name]) - 1, _PAIRS).astype(int))
        ids, origins = (records[name].column(column)[rows].tolist() for column in ("id", "origin_id"))
        clean = _pixels(NORMAL, origins, datamodule, records[NORMAL])
        attacked = _pixels(name, ids, datamodule, records[name])
        if clean is None or attacked is None or len(clean) != len(attacked):
            continue
        predictions = [
            (facts[origin].prediction, facts[one].prediction) for one, origin in zip(ids, origins, strict=True)
        ]
        found[name] = ImagePairs(_thumbnails(clean), _thumbnails(attacked), predictions)
    return found


def _samples(source: str, datamodule: ImageDataModule, records: Records) -> np.ndarray | None:
    rows = np.unique(np.linspace(0, len(records) - 1, _SAMPLES).astype(int))
    ids = datamodule.sources.clean[source].ids if source in datamodule.sources.clean else records.ids
    return _pixels(source, [ids[row] for row in rows], datamodule, records)


def _pixels(source: str, ids: Sequence[str], datamodule: ImageDataModule, records: Records) -> np.ndarray | None:
    """Images by id, uint8 [k, H, W, C]; None for those made while probing and not kept."""
    loaded = datamodule.sources.clean.get(source)
    known = loaded.ids if loaded is not None else records.ids
    place = {name: row for row, name in enumerate(known)}
    rows = [place[name] for name in ids if name in place]
    if loaded is not None:
        images = (as_float(loaded.images(rows)) * 255).round().to(torch.uint8).numpy()
    elif datamodule.keep_pixels:
        kept = records.probe(f"pixels/{datamodule.keep_pixels}")[rows].reshape(
            len(rows), *datamodule.sources.normal.shape
        )
        images = kept if kept.dtype == np.uint8 else np.round(kept.astype(np.float32) * 255).astype(np.uint8)
    else:
        return None
    return np.asarray(images.transpose(0, 2, 3, 1))


def first_layer(network: nn.Module, sources: Mapping[str, LoadedSource]) -> dict[str, Any]:
    """Take the gradient of the first convolution's weight for the middle image of each source; see `weight_gradients`.

    Returns:
        `name` of the weight, `weights` float32 [filters, C, h, w] and, by source, `gradients` of the all-ones loss of
        one image, of the same shape, and `images` uint8 [H, W, C]; empty if the network has no convolution.

    Reference:
        Lee et al. 2022, Figure 1 and Eq. 1.
    """
    found = next(((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)), None)
    if found is None:
        return {}
    name, convolution = found
    device = convolution.weight.device
    images = {source: as_float(loaded.images([len(loaded) // 2])).to(device) for source, loaded in sources.items()}
    return {
        "name": f"{name}.weight",
        "weights": convolution.weight.detach().cpu().numpy().copy(),
        "gradients": {source: _gradient(network, convolution, image) for source, image in images.items()},
        "images": {source: _picture(image) for source, image in images.items()},
    }


def _gradient(network: nn.Module, convolution: nn.Conv2d, image: Tensor) -> np.ndarray:
    with exact_arithmetic(), frozen_network(network):
        convolution.weight.requires_grad_(True)  # `frozen_network` puts back what it was
        logits = network(image)
        logit_gradient = AllOnes().logit_gradient(to_float64(logits.detach())).to(logits)
        (gradient,) = torch.autograd.grad(logits, [convolution.weight], logit_gradient)
    return np.asarray(gradient.cpu().numpy())


def _picture(image: Tensor) -> np.ndarray:
    return np.asarray((image[0] * 255).round().to(torch.uint8).cpu().numpy().transpose(1, 2, 0))
