"""The sources of an experiment, the manifest of their splits, and their batches for Lightning at each stage."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    NonNegativeInt,
    PositiveInt,
    Refusal,
    as_float,
    named_seed,
)
from lightning_gradood.data.classes import Outputs, fit_to_outputs
from lightning_gradood.data.datasets import LoadedSource
from lightning_gradood.data.duplicates import groups_of, refuse_two_roles, say_duplicates, say_shared, say_trained_on
from lightning_gradood.data.folder import Limits, Opening, refuse_other_shape
from lightning_gradood.data.loaders import (
    RowChooser,
    labelled,
    make_loader,
    refuse_fewer_than_processes,
    training_parts,
)
from lightning_gradood.data.perturbations import Made, Perturbations, PerturbedSource, built_in_probes
from lightning_gradood.data.source import ImageBatch, Source
from lightning_gradood.data.splits import Manifest, Rows, Split, exact_shares, make_manifest
from lightning_gradood.perturbations import Perturbation
from lightning_gradood.records import NORMAL, SPLITS

_LONGEST = 100  # letters of a source's name, which becomes a folder's and a file's
_MEAN = "mean"  # stands for the mean over sources wherever a source's name stands in results


class ImageDataModule(LightningDataModule):
    """The images of an experiment: a classifier's training set, its normal test set, and anomalous sources.

    `fit` and `validate` see `train`, of which a stratified part is held out for validation; `test` sees `normal`;
    `predict` sees one loader per detection source, `normal` first. A folder's path may stand in place of a source. What
    attacks and corruptions make of the normal images are further sources, whose images are made while they are probed.

    Args:
        normal: Images like those the classifier was trained on, but unseen by it.
        anomalies: Images it should be suspicious of, by name.
        train: The classifier's training images; None where it is trained already.
        classes: Names of the network's outputs in their order, to which class folders are mapped: a list, or a file
            with one name in each line or with JSON or YAML, e.g. ImageNet's `imagenet_class_index.json`. By default the
            class folders of `train`, or of `normal`, are the outputs, in the order of their names (of their numbers,
            where these are all that differs).
        transform: Deterministic; applied once to every image of every source. Pixels stay in [0, 1].
        augment: Maps float training batches [N, C, H, W], on their device, to others.
        perturbations: Attacks and corruptions of the normal images.
        split: The detectors' train, val and test parts, and the classifier's validation part.
        limits: How many images are taken, and how large they may be.
        keep_pixels: Keep the images themselves as records, for other tools, in this type.
        batch_size: Images per training, validation and test batch, on each process.
        probe_batch_size: Images per predict batch, on each process.
        num_workers: Processes that decode sources too large for memory; others need none.
    """

    def __init__(
        self,
        normal: Source | str,
        anomalies: dict[str, Source | str] | None = None,
        train: Source | str | None = None,
        classes: list[str | int] | str | None = None,
        transform: Callable[[Any], Any] | None = None,
        augment: nn.Module | None = None,
        perturbations: Perturbations = Perturbations(),  # noqa: B008 - it is immutable
        split: Split = Split(),  # noqa: B008 - it is immutable
        limits: Limits = Limits(),  # noqa: B008 - it is immutable
        keep_pixels: Literal["uint8", "float16", "float32"] | None = None,
        batch_size: PositiveInt = 128,
        probe_batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        anomalies = anomalies or {}
        opened = [NORMAL, *anomalies]
        self.perturbations = Made.named(perturbations, limits.sources or {}, limits.seed, opened)
        made = [*self.perturbations.names, *self.perturbations.noise_names.values()]
        _refuse_settings([*anomalies, *made], split.fractions)
        refuse_two_roles(train, normal, anomalies)
        self.normal, self.anomalies, self.train = normal, anomalies, train
        self.augment, self.split = augment, split
        self.batch_size, self.probe_batch_size, self.num_workers = batch_size, probe_batch_size, num_workers
        self.eight_bit, self.keep_pixels = perturbations.eight_bit, keep_pixels
        self.keep: Literal["all", "successful"] = perturbations.keep
        self.knows_anomalies = True
        """Whether the anomalous sources are the user's, rather than built-in probes."""
        self.output_names = None if classes is None else Outputs.read(classes)
        self.names_of_weights: Outputs | None = None
        """The network's outputs by name, where they came with its weights; set it before a source is opened."""
        self.outputs: int | None = None
        """How many outputs the network has; None until `fit_outputs` is told."""
        self.predict_sources: list[str] = []
        """The names of the predict loaders, in their order, from when these are made."""
        self.opening = Opening(transform, limits)

    @cached_property
    def train_source(self) -> LoadedSource:
        """The classifier's training images."""
        if self.train is None:
            raise Refusal(
                "`data.train` should name the classifier's training images. Got `data.train = None`. "
                "Give `data.train`, or give trained weights and use `detect` in place of `fit`."
            )
        named, flag = (self.output_names, "data.classes") if self.output_names else (self.names_of_weights, "")
        return labelled(self.opening.load("train", self.train, classes=named, flag=flag))

    @cached_property
    def normal_source(self) -> LoadedSource:
        """The normal source; labels index `output_names`, else the training classes, else the names of the weights."""
        named, flag = self.output_names or self.names_of_weights, "data.classes" if self.output_names else ""
        if self.output_names is None and self.train is not None:
            named, flag = Outputs.of(self.train_source.classes), "train"
        normal = self.opening.load(NORMAL, self.normal, named, flag)
        if self.train is not None:
            refuse_other_shape(self.train_source, normal)
        return normal

    @cached_property
    def detection_sources(self) -> dict[str, LoadedSource]:
        """Every source a detector sees, `normal` first; opened at first use."""
        sources = {NORMAL: self.normal_source}
        for name, anomaly in self.anomalies.items():
            sources[name] = self.opening.load(name, anomaly)
            refuse_other_shape(sources[name], self.normal_source)
        return sources

    @cached_property
    def manifest(self) -> Manifest:
        """The split of every detection source's images."""
        ids = {name: source.ids for name, source in self.detection_sources.items()}
        labels = {name: source.labels for name, source in self.detection_sources.items()}
        return make_manifest(ids, labels, self.split.fractions, self.split.seed, self._groups)

    def compare_with_training(self) -> None:
        """Print a line where normal images are training images too; all training images are read for it."""
        if self.train is not None:
            say_trained_on(self.train_source, self.normal_source)

    @cached_property
    def _groups(self) -> dict[str, NDArray[np.int64]]:
        """Which images of a source are the same one and stay in one split; printed where there are any."""
        groups = {name: groups_of(source) for name, source in self.detection_sources.items()}
        for name, source in self.detection_sources.items():
            say_duplicates(source, groups[name])
        say_shared(self.detection_sources)
        return groups

    @cached_property
    def perturbed_sources(self) -> dict[str, PerturbedSource]:
        """The perturbed sources by name: what attacks and corruptions make of the normal images."""
        normal = self.normal_source
        # the split of `limits.seed` settles which images a limit takes, so that other splits attack the same ones
        ids, labels, groups = {NORMAL: normal.ids}, {NORMAL: normal.labels}, {NORMAL: groups_of(normal)}
        settled = make_manifest(ids, labels, self.split.fractions, self.opening.limits.seed, groups)
        made = self.perturbations.of(normal, settled.split_of)
        for name, limit in self.perturbations.limits.items():
            counts = Counter(self.manifest.split_of[origin] for origin in made[name].origins)
            if len(counts) < len(SPLITS):
                raise Refusal(
                    f"`limits.sources.{name}` should leave images in every split. Got `limits.sources.{name} = {limit}`, "
                    f"which gives {dict(counts)}. Raise it."
                )
        return made

    def try_built_in_probes(self) -> None:
        """Where no anomalies are known, take `built_in_probes` of the normal images in their place."""
        if self.knows_anomalies and not self.anomaly_names:
            self.knows_anomalies = False
            self.perturbations = built_in_probes(self.opening.limits.seed)
            vars(self).pop("perturbed_sources", None)

    def make_synthetic(self, outliers: Mapping[str, Perturbation], probes: Sequence[str]) -> None:
        """Make synthetic outliers of normal images, in place of those asked for before."""
        taken = sorted({*outliers} & {*self.anomaly_names, *self.perturbations.noise_names.values()})
        if taken:
            raise Refusal(
                "`data.anomalies`, attacks and corruptions should not have names of synthetic outliers. "
                f"Got {taken}. Rename them."
            )
        self.perturbations = replace(self.perturbations, synthetic=outliers, synthetic_probes=frozenset(probes))
        vars(self).pop("perturbed_sources", None)

    @property
    def anomaly_names(self) -> list[str]:
        """The names of all anomalous sources, those of attacks and corruptions last."""
        return [*self.anomalies, *self.perturbations.names]

    def keep_of(self, source: str) -> Literal["all", "successful"]:
        """Which images of an anomalous source are detected; only attacks can succeed or fail."""
        return self.keep if source in self.perturbations.attacks else "all"

    def noise_of(self, source: str) -> str | None:
        """The name of an attack's noise control, if there is one."""
        return self.perturbations.noise_names.get(source)

    @property
    def classes(self) -> list[str]:
        """Names of the classifier's classes, those of `train`, or else of `normal`; empty where they have none."""
        return (self.normal_source if self.train is None else self.train_source).classes

    @property
    def num_classes(self) -> int | None:
        """The number of classes of `train`, or else of `normal`; None where they have no labels."""
        return (self.normal_source if self.train is None else self.train_source).num_classes

    def fit_outputs(self, outputs: int) -> list[str]:
        """Leave out labels if the network has more outputs than there are classes: which ones these are is not known.

        A single output tells two classes apart. Returns sentences about what was decided and could have been meant
        otherwise; none for a number that is known already.
        """
        if self.outputs == outputs:
            return []
        self.outputs = outputs
        source = self.normal_source if self.train is None else self.train_source
        before = source.num_classes
        notes = fit_to_outputs(source, outputs, self.output_names)
        if source.num_classes != before:
            for kept in ("manifest", "perturbed_sources"):  # which depend on labels
                vars(self).pop(kept, None)
        return notes

    @override
    def prepare_data(self) -> None:
        # open what the stage needs: one process alone downloads what may be downloaded
        stage = None if self.trainer is None else self.trainer.state.fn
        if stage in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            _ = self.train_source
        elif stage == TrainerFn.TESTING:
            _ = self.normal_source
        else:
            _ = self.detection_sources

    @override
    def train_dataloader(self) -> DataLoader[ImageBatch]:
        return make_loader(self.train_source, self._train_rows[0], self.batch_size, self.num_workers, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[ImageBatch]:
        return make_loader(self.train_source, self._train_rows[1], self.batch_size, self.num_workers)

    @override
    def test_dataloader(self) -> DataLoader[ImageBatch]:
        source = labelled(self.normal_source)
        return make_loader(source, range(len(source)), self.batch_size, self.num_workers)

    @override
    def predict_dataloader(self) -> list[DataLoader[ImageBatch]]:
        trainer = self.trainer
        sizes = {name: len(source) for name, source in self.detection_sources.items()}
        rows: Mapping[str, Sequence[int] | Rows] = {name: range(size) for name, size in sizes.items()}
        if trainer is not None:
            for chooser in (one for one in trainer.callbacks if isinstance(one, RowChooser)):  # type: ignore[attr-defined]
                rows = chooser.choose_rows(trainer, self)
        self.predict_sources = list(rows)
        return self.probe_dataloaders(rows, 1 if trainer is None else trainer.world_size)

    def probe_dataloaders(
        self, rows: Mapping[str, Sequence[int] | Rows], processes: int
    ) -> list[DataLoader[ImageBatch]]:
        """Load some rows of some detection sources, one loader for each source that is named.

        Args:
            rows: Source to rows, in the order in which they are loaded.
            processes: How many share them; a Refusal if a source has fewer rows.
        """
        loaders = []
        for name, chosen in rows.items():
            source = self.detection_sources[name]
            refuse_fewer_than_processes(source, chosen, processes)
            loaders.append(make_loader(source, chosen, self.probe_batch_size, self.num_workers))
        return loaders

    def preparation_dataloader(self) -> DataLoader[ImageBatch]:
        """Load all training images in order and without augmentation, for probes that learn from them."""
        source = self.train_source
        return make_loader(source, range(len(source)), self.probe_batch_size, self.num_workers)

    def try_augment(self, images: Tensor) -> None:
        """Refuse an augmentation that does not map images [N, C, H, W] to such; random numbers stay as they were."""
        if self.augment is None:
            return
        try:
            with torch.random.fork_rng(devices=[]):
                augmented = self.augment.train()(images.clone())
            found = f"{list(augmented.shape)}" if isinstance(augmented, Tensor) else type(augmented).__name__
        except Exception as error:  # a module raises whatever it likes
            found = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(".")
        if found != f"{list(images.shape)}":
            raise Refusal(
                f"`data.augment` should be a module that maps training images {list(images.shape)} to such images. "
                f"Got {found}. Give it settings that fit, or leave it out."
            )

    @override
    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        images = as_float(batch.images)
        if self.trainer is None:
            return batch._replace(images=images)
        if self.trainer.training and self.augment is not None:
            images = self.augment.to(images.device)(images)
        return batch._replace(images=self.trainer.precision_plugin.convert_input(images))

    @override
    def on_exception(self, exception: BaseException) -> None:
        if isinstance(exception, Refusal):  # strip the worker's traceback that torch puts around it
            exception.args = (str(exception).rpartition("errors.Refusal: ")[2].strip(),)

    @cached_property
    def _train_rows(self) -> tuple[Rows, Rows]:
        return training_parts(self.train_source, self.split.validation, named_seed(self.split.seed, "train"))


def _refuse_settings(anomalies: Iterable[str], split: Sequence[float]) -> None:
    """Refuse names of anomalous sources that would make ids ambiguous, and shares that do not sum to 1."""
    anomalies = list(anomalies)
    for name in anomalies:
        if name in ("", NORMAL, _MEAN, ".", "..") or "/" in name or not name.isprintable() or len(name) > _LONGEST:
            raise Refusal(
                f"`anomalies` should have names without a slash, of at most {_LONGEST} letters, other than `{NORMAL}`, "
                f"`{_MEAN}`, `.` and `..`. Got `anomalies` with the name `{name[:_LONGEST].encode('unicode_escape').decode()}`. "
                "Rename that source."
            )
    repeated = sorted({name for name in anomalies if anomalies.count(name) > 1})
    if repeated:
        raise Refusal(
            "`anomalies`, `attacks` and `corruptions` should have different names. "
            f"Got {repeated} more than once. Rename one of them."
        )
    exact_shares(split)
