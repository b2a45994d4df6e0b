"""The data module: the sources of an experiment, and their batches for Lightning at each stage."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import NonNegativeInt, PositiveInt, Refusal, as_float, named_seed
from lightning_gradood.data.loading import ImageBatch, Limits, LoadedSource, RowChooser, Rows, make_loader
from lightning_gradood.data.mixture import Perturbations, Sources
from lightning_gradood.data.source import Source
from lightning_gradood.data.splits import Split, groups_of, say_duplicates, say_shared, split_rows

_MOST_COMPARED = 50_000  # training images that are not in memory, each of which would have to be read


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
        perturbations: Perturbations = Perturbations(),
        split: Split = Split(),
        limits: Limits = Limits(),
        keep_pixels: Literal["uint8", "float16", "float32"] | None = None,
        batch_size: PositiveInt = 128,
        probe_batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.sources = Sources(normal, anomalies, train, classes, transform, perturbations, split, limits)
        self.augment, self.keep_pixels = augment, keep_pixels
        self.predict_sources: list[str] = []
        """The names of the predict loaders, in their order, from when these are made."""
        self.batch_size, self.probe_batch_size, self.num_workers = batch_size, probe_batch_size, num_workers

    @override
    def prepare_data(self) -> None:
        # open what the stage needs: one process alone downloads what may be downloaded
        stage = None if self.trainer is None else self.trainer.state.fn
        if stage in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            _ = self.sources.train
        elif stage == TrainerFn.TESTING:
            _ = self.sources.normal
        else:
            _ = self.sources.clean

    @override
    def train_dataloader(self) -> DataLoader[ImageBatch]:
        train, _ = self._train_rows
        return make_loader(self.sources.train, train, self.batch_size, self.num_workers, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[ImageBatch]:
        _, val = self._train_rows
        return make_loader(self.sources.train, val, self.batch_size, self.num_workers)

    @override
    def test_dataloader(self) -> DataLoader[ImageBatch]:
        return self._whole(self.sources.normal.labelled(), self.batch_size)

    @override
    def predict_dataloader(self) -> list[DataLoader[ImageBatch]]:
        trainer, clean = self.trainer, self.sources.clean
        rows: Mapping[str, Sequence[int] | Rows] = {name: range(len(source)) for name, source in clean.items()}
        if trainer is not None:
            for chooser in (one for one in trainer.callbacks if isinstance(one, RowChooser)):  # type: ignore[attr-defined]
                rows = chooser.choose_rows(trainer, self)
        self.predict_sources = list(rows)
        return self.probe_dataloaders(rows, 1 if trainer is None else trainer.world_size)

    def probe_dataloaders(
        self, rows: Mapping[str, Sequence[int] | Rows], processes: int
    ) -> list[DataLoader[ImageBatch]]:
        """Load some rows of some clean sources, one loader for each source that is named.

        Args:
            rows: Source to rows, in the order in which they are loaded.
            processes: How many share them; a Refusal if a source has fewer rows, for which Lightning raises a bare
                assertion.
        """
        for name, chosen in rows.items():
            if len(chosen) < processes:
                raise Refusal(
                    f"`{name}` should have at least one image for each process. "
                    f"Got `{name}` with {len(chosen)} to probe and {processes} processes. "
                    f"Use at most {len(chosen)}, with `--trainer.devices {len(chosen)}`."
                )
        clean = self.sources.clean
        return [make_loader(clean[name], rows[name], self.probe_batch_size, self.num_workers) for name in rows]

    def preparation_dataloader(self) -> DataLoader[ImageBatch]:
        """Load all training images in order and without augmentation, for probes that learn from them."""
        return self._whole(self.sources.train, self.probe_batch_size)

    def _whole(self, source: LoadedSource, batch_size: int) -> DataLoader[ImageBatch]:
        return make_loader(source, range(len(source)), batch_size, self.num_workers)

    def compare_with_training(self) -> None:
        """Print a line where normal images are training images too; all training images are read for it."""
        if not self.sources.has_train:
            return
        train, normal = self.sources.train, self.sources.normal
        if not train.in_memory and len(train) > _MOST_COMPARED:
            rank_zero_info(f"train: {len(train):,} images are too many to look for copies of normal ones among them.")
            return
        known = "The classifier knows these, so that false alarms are rarer among them than among new images"
        say_shared(normal, train, "training images", known)

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
        """The training images trained on, and those that select the checkpoint, stratified by class.

        Copies of an image are in one of them, if the images are in memory; others would have to be read once more.
        """
        source, part = self.sources.train, self.sources.split.validation
        groups = groups_of(source) if source.in_memory else None
        if groups is not None:
            say_duplicates(source, groups)
        train, val = split_rows(source.labels, [1 - part, part], named_seed(self.sources.split.seed, "train"), groups)
        if len(train) == 0 or len(val) == 0:
            raise Refusal(
                "`train` should have enough images for a validation part. "
                f"Got `train` with {len(source)} and `split.validation = {part}`. "
                "Add images, or move the fraction towards 0.5."
            )
        return train, val
