"""The data that a detection report is made from, in one object, and where its numbers come from."""

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

import lightning_gradood
from lightning_gradood.core import Refusal, as_float
from lightning_gradood.data import ImageDataModule, class_name
from lightning_gradood.evaluation import Failure, Outcome, attack_numbers
from lightning_gradood.extraction import CacheEntry
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.first_layer import first_layer
from lightning_gradood.report.names import source_title
from lightning_gradood.tasks import ClassificationTask

MEAN = "mean"
"""The word that stands where a source's name stands when a number is the mean over sources."""


class ImageFacts(NamedTuple):
    """What is known of an image beside its scores.

    Args:
        path: the file it was read from, or the one it was made from; empty where images are no files.
        label: name of its class, or its index where classes have no names; empty where it is unknown.
        prediction: of the classifier, in the same way.
    """

    path: str
    label: str
    prediction: str


@dataclass(frozen=True)
class ImageRow:
    """Some images with their scores.

    Args:
        images: uint8 [k, H, W, C], C = 1 or 3.
        scores: float64 [k].
    """

    images: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class ImagePairs:
    """Some normal images with what an attack made of them.

    Args:
        clean: uint8 [k, H, W, C], C = 1 or 3.
        attacked: of the same shape, in the same order.
        predictions: the classifier's on each pair, before and after.
    """

    clean: np.ndarray
    attacked: np.ndarray
    predictions: list[tuple[str, str]]


@dataclass(frozen=True)
class DetectionReport:
    """Outcomes, representations, sample images and provenance of a `detect` run.

    Args:
        experiment: name of the experiment.
        outcomes: one per anomaly source and detector, or one per pair of sources where each is tested with each.
        norms: source name to gradient representation of the first label design, squared L2 norms, float64 [n, L];
            `"normal"` first, then the anomaly sources. It may be empty when no gradients were probed.
        layer_names: names of the L parameter tensors, in the order of the columns of `norms`.
        samples: source name to a few of its images, uint8 [k, H, W, C] with C = 1 or 3, `"normal"` first.
        facts: id of each record to what is known of its image.
        extremes: detector to rows of `test` images: the most anomalous normal ones, and of each source the most normal ones.
        pairs: attack to images before and after it, where a run keeps pixels.
        first_layer: what `first_layer` returns; empty if the network has no convolution.
        features: source name to the feature layers' spatial averages, [n, ΣC]; empty if no detector reads them.
        feature_names: of the ΣC columns.
        manifest: which id is in which split (others write it as `splits.json`).
        failures: detectors that have no outcome on a source, with the reason.
        provenance: versions, network, checkpoint, seeds, seconds and whatever else a reader needs to repeat the run.

    Raises:
        Refusal: two outcomes share source and detector, a source is called `"mean"`, `norms` and `layer_names`
            disagree, or `samples` are not uint8 images.
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
    manifest: dict[str, Any] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_outcomes(self.outcomes)
        _check_norms(self.norms, self.layer_names)
        _check_samples(self.samples)


def by_detector(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by detector, those trained on one other source apart; both in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.label, []).append(outcome)
    return groups


def not_transferred(outcomes: list[Outcome]) -> list[Outcome]:
    """Leave out the outcomes of detectors that were trained on one other source: they belong into a matrix."""
    return [outcome for outcome in outcomes if not outcome.transferred]


def _check_outcomes(outcomes: list[Outcome]) -> None:
    pairs = [(outcome.source, outcome.label) for outcome in outcomes]
    for source, detector in pairs:
        if source == MEAN:
            raise Refusal(
                f'`outcomes` should name no source "{MEAN}", the word for the mean over sources. '
                f"Got `source = {source!r}`. Rename the source."
            )
        if pairs.count((source, detector)) > 1:
            raise Refusal(
                "`outcomes` should hold each pair of source and detector once. "
                f"Got `{source!r}` with `{detector!r}` {pairs.count((source, detector))} times. "
                "Give the detectors, or the sources, different names."
            )


def _check_norms(norms: dict[str, np.ndarray], layer_names: list[str]) -> None:
    for source, values in norms.items():
        if values.ndim != 2 or values.shape[1] != len(layer_names):
            raise Refusal(
                f"`norms[{source!r}]` should have one column per layer name, shape [n, {len(layer_names)}]. "
                f"Got `shape = {list(values.shape)}`. Pass the representation of the first label design only."
            )


def _check_samples(samples: dict[str, np.ndarray]) -> None:
    for source, images in samples.items():
        if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
            raise Refusal(
                f"`samples[{source!r}]` should be uint8 images of shape [k, H, W, C] with C = 1 or 3. "
                f"Got `{images.dtype} {list(images.shape)}`. Move the channels last and scale to 0..255."
            )


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
    shown = {source: records[source] for source in [NORMAL, *datamodule.anomaly_names]}
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
        first_layer=first_layer(model.network, datamodule.detection_sources),
        features={source: table.probe(_FEATURES) for source, table in shown.items()} if has_features else {},
        feature_names=records[NORMAL].names(_FEATURES) if has_features else [],
        manifest=datamodule.manifest.counts,
        provenance=_provenance(datamodule, entries, records),
    )


def _provenance(
    datamodule: ImageDataModule, entries: Sequence[CacheEntry], records: Mapping[str, Records]
) -> dict[str, Any]:
    return {
        "classifier": classifier_accuracy(records[NORMAL], datamodule.outputs and max(datamodule.outputs, 2)),
        "perturbations": {
            name: {**made.attack.describe(), "images": len(made.ids), **attack_numbers(records[name])}
            for name, made in datamodule.perturbed_sources.items()
        },
        "records": {f"{entry.source}/{entry.probe}": entry.key for entry in entries},
        "command": _command(),
        "versions": _versions(),
    }


def classifier_accuracy(normal: Records, outputs: int | None = None) -> dict[str, float | int]:
    """Accuracy on the labelled normal images, their number and that of classes, from the predictions that records keep.

    Args:
        normal: records of normal images.
        outputs: how many classes the network tells apart; by default those that the images have.
    """
    labels, predictions = normal.column("label"), normal.column("prediction")
    known = labels >= 0
    accuracy = float(np.mean(labels[known] == predictions[known])) if known.any() else float("nan")
    if not known.any():
        return {"images": 0}
    return {"images": int(known.sum()), "accuracy": accuracy, "classes": outputs or len(np.unique(labels[known]))}


def _command() -> str:
    """What this process was started with, as a user types it."""
    program, *words = sys.argv
    ours = Path(program) == Path(lightning_gradood.__file__).with_name("__main__.py")
    return shlex.join(["python", "-m", "lightning_gradood", *words] if ours else sys.argv)


def _versions() -> dict[str, str]:
    own = {"lightning_gradood": lightning_gradood.__version__, "python": platform.python_version()}
    return own | {package: version(package) for package in _PACKAGES}


def image_facts(datamodule: ImageDataModule, records: Mapping[str, Records]) -> dict[str, ImageFacts]:
    """Say of every record which file its image comes from, its class and its prediction.

    Args:
        datamodule: sources and splits.
        records: of every source.
    """
    normal = datamodule.normal_source
    found: dict[str, ImageFacts] = {}
    for name, table in records.items():
        loaded = datamodule.detection_sources.get(name, normal)
        rows = {one: row for row, one in enumerate(loaded.ids)}
        columns = (table.column(column).tolist() for column in ("id", "origin_id", "label", "prediction"))
        for one, origin, label, prediction in zip(*columns, strict=True):
            path = loaded.path(rows[origin]) if origin in rows else ""
            found[one] = ImageFacts(path, class_name(label, loaded.classes), class_name(prediction, datamodule.classes))
    return found


_EXTREMES = 8  # images in a row
_THUMBNAIL = 96  # pixels; larger images are shown at every so many-th pixel


def _extremes(
    outcomes: Sequence[Outcome], datamodule: ImageDataModule, records: Mapping[str, Records]
) -> dict[str, dict[str, ImageRow]]:
    """Rows of images that each detector found hardest on `test`; of sources whose images were kept or are loaded."""
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
    """A few images from all over each attack's, whether it succeeded or not, with those they are made of."""
    found = {}
    for name, made in datamodule.perturbed_sources.items():
        if not (datamodule.keep_pixels and made.adversarial and name in datamodule.anomaly_names):
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
    """A few images spread over the source, uint8 [k, H, W, C]; None for those made while probing and not kept."""
    rows = np.unique(np.linspace(0, len(records) - 1, _SAMPLES).astype(int))
    ids = datamodule.detection_sources[source].ids if source in datamodule.detection_sources else records.ids
    return _pixels(source, [ids[row] for row in rows], datamodule, records)


def _pixels(source: str, ids: Sequence[str], datamodule: ImageDataModule, records: Records) -> np.ndarray | None:
    """Images by id, uint8 [k, H, W, C]; None for those made while probing and not kept."""
    loaded = datamodule.detection_sources.get(source)
    known = loaded.ids if loaded is not None else records.ids
    place = {name: row for row, name in enumerate(known)}
    rows = [place[name] for name in ids if name in place]
    if loaded is not None:
        images = (as_float(loaded.images(rows)) * 255).round().to(torch.uint8).numpy()
    elif datamodule.keep_pixels:
        kept = records.probe(f"pixels/{datamodule.keep_pixels}")[rows].reshape(
            len(rows), *datamodule.normal_source.shape
        )
        images = kept if kept.dtype == np.uint8 else np.round(kept.astype(np.float32) * 255).astype(np.uint8)
    else:
        return None
    return np.asarray(images.transpose(0, 2, 3, 1))
