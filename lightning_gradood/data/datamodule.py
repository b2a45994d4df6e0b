"""The data module: the sources of an experiment, and their batches for Lightning at each stage."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.data import DataLoader, Subset
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import NonNegativeInt, PositiveInt, Refusal, as_float, named_seed
from lightning_gradood.data.given_sources import Given
from lightning_gradood.data.loading import ImageBatch, Limits, LoadedSource
from lightning_gradood.data.mixture import Sources
from lightning_gradood.data.perturbed import Perturbations
from lightning_gradood.data.source import GivenSource
from lightning_gradood.data.splits import Rows, Split, split_rows

_MOST_COMPARED = 50_000  # training images that are not in memory, each of which would have to be read


class ImageDataModule(LightningDataModule):
    """The images of an experiment: a classifier's training set, its normal test set, and anomalous sources.

    `fit` and `validate` see `train`, of which a stratified part is held out for validation; `test` sees `normal`;
    `predict` sees one loader per detection source, `normal` first. A folder's path, or a data set (in Python what builds
    it), may stand in place of a source. What attacks and corruptions make of the normal images are further sources, whose
    images are made while they are probed.

    Args:
        normal: Images like those the classifier was trained on, but unseen by it; one source, whose splits are drawn, or
            one for each part: `fit`, `val`, `test`, or `fit+val`, whose images are split between the two.
        anomalies: Images it should be suspicious of, by name; each as `normal`.
        train: The classifier's training images; None where it is trained already.
        classes: Names of the network's outputs in their order, to which class folders are mapped: a list, or a file
            with one name in each line or with JSON or YAML, e.g. ImageNet's `imagenet_class_index.json`; or the number
            of outputs, where class folders are named 0, 1, …, with leading zeros or without. By default the
            class folders of `train`, or of `normal`, are the outputs, in the order of their names (of their numbers,
            where these are all that differs).
        transform: Deterministic; applied once to every image of every source. Pixels stay in [0, 1].
        augment: Maps float training batches [N, C, H, W], on their device, to others.
        perturbations: Attacks and corruptions of the normal images.
        split: The detectors' train, val and test parts, and the classifier's validation part.
        limits: How many images are taken, and how large they may be.
        groups: Anomalous sources by group, e.g. {near: [cifar100], far: [svhn]}; the mean of each group is reported too.
            Those of a group named `shifted` count as normal in the metrics `full_spectrum/*` of all others.
        keep_pixels: Keep the images themselves as records, for other tools, in this type.
        batch_size: Images per training, validation and test batch, on each process.
        probe_batch_size: Images per predict batch, on each process.
        num_workers: Processes that decode sources too large for memory; others need none.
    """

    def __init__(
        self,
        normal: Given,
        anomalies: dict[str, Given] | None = None,
        train: GivenSource | None = None,
        classes: list[str | int] | PositiveInt | str | None = None,
        transform: Callable[[Any], Any] | None = None,
        augment: nn.Module | None = None,
        perturbations: Perturbations = Perturbations(),
        split: Split = Split(),
        limits: Limits = Limits(),
        groups: dict[str, list[str]] | None = None,
        keep_pixels: Literal["uint8", "float16", "float32"] | None = None,
        batch_size: PositiveInt = 128,
        probe_batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.sources = Sources(normal, anomalies, train, classes, transform, perturbations, split, limits, groups)
        self.augment, self.keep_pixels = augment, keep_pixels
        self.predict_sources: list[str] = []
        """The names of the predict loaders, in their order, from when these are made."""
        self.batch_size, self.probe_batch_size, self.num_workers = batch_size, probe_batch_size, num_workers

    @override
    def prepare_data(self) -> None:
        # open what the stage needs: one process alone downloads what may be downloaded
        stage = None if self.trainer is None else self.trainer.state.fn
        training = stage in (TrainerFn.FITTING, TrainerFn.VALIDATING)
        getattr(self.sources, "train" if training else "normal" if stage == TrainerFn.TESTING else "clean")

    @override
    def train_dataloader(self) -> DataLoader[ImageBatch]:
        return self._loader(self.sources.train, self._train_rows[0], self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[ImageBatch]:
        return self._loader(self.sources.train, self._train_rows[1], self.batch_size)

    @override
    def test_dataloader(self) -> DataLoader[ImageBatch]:
        normal = self.sources.normal.labelled()
        return self._loader(normal, range(len(normal)), self.batch_size)

    @override
    def predict_dataloader(self) -> list[DataLoader[ImageBatch]]:
        rows: Mapping[str, Sequence[int] | Rows]
        rows = {name: range(len(source)) for name, source in self.sources.loaded.items()}
        if self.trainer is not None:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if choose := getattr(callback, "choose_rows", None):  # `extraction.ProbeCallback` reads what is missing
                    rows = choose(self.trainer, self)
        self.predict_sources = list(rows)
        loaded = self.sources.loaded
        return [self._loader(loaded[name], chosen, self.probe_batch_size) for name, chosen in rows.items()]

    def preparation_dataloader(self) -> DataLoader[ImageBatch]:
        """Load all training images in order and without augmentation, for probes that learn from them."""
        return self._loader(self.sources.train, range(len(self.sources.train)), self.probe_batch_size)

    def _loader(
        self, source: LoadedSource, rows: Sequence[int] | Rows, batch_size: int, shuffle: bool = False
    ) -> DataLoader[ImageBatch]:
        workers = 0 if source.in_memory else self.num_workers
        if source.in_memory:  # Lightning's advice would slow these loaders down: there is nothing left to decode
            warnings.filterwarnings("ignore", ".*does not have many workers", PossibleUserWarning)
        return DataLoader(
            Subset(source, rows),  # type: ignore[arg-type]  # an array takes less memory than a list of millions
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )

    def compare_with_training(self) -> None:
        """Print a line where normal images are training images too; all training images are read for it."""
        if not self.sources.has_train:
            return
        train, normal = self.sources.train, self.sources.normal
        if not train.in_memory and len(train) > _MOST_COMPARED:
            rank_zero_info(f"train: {len(train):,} images are too many to look for copies of normal ones among them.")
            return
        known = "The classifier knows these, so that false alarms are rarer among them than among new images"
        normal.say_shared(train, "training images", known)

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
            exception.args = (str(exception).rpartition(f"{type(exception).__name__}: ")[2].strip(),)

    @cached_property
    def _train_rows(self) -> tuple[Rows, Rows]:
        """The training images trained on, and those that select the checkpoint, stratified by class.

        Copies of an image are in one of them, if the images are in memory; others would have to be read once more.
        """
        source, part = self.sources.train, self.sources.split.validation
        groups = source.groups if source.in_memory else None
        if groups is not None:
            source.say_duplicates(groups)
        train, val = split_rows(source.labels, [1 - part, part], named_seed(self.sources.split.seed, "train"), groups)
        if len(train) == 0 or len(val) == 0:
            raise Refusal(
                "`train` should have enough images for a validation part. Got `train` with "
                f"{len(source)} and `split.validation = {part}`. Add images, or move the fraction towards 0.5."
            )
        return train, val


def _as_it_is(batch: Any) -> Any:
    return batch  # whole already; workers cannot unpickle a lambda
