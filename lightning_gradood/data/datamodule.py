"""Lightning's view of the sources: which images each stage of an experiment sees, and how they are batched."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_gradood.core import (
    MEGAPIXELS,
    FiniteNonNegative,
    NonNegativeInt,
    OpenUnitInterval,
    Perturbation,
    PositiveFloat,
    PositiveInt,
    Refusal,
    Seed,
    as_float,
    named_seed,
)
from lightning_gradood.data.classes import Outputs
from lightning_gradood.data.duplicates import refuse_two_roles
from lightning_gradood.data.experiment_sources import ExperimentSources
from lightning_gradood.data.folder import Opening
from lightning_gradood.data.loaders import labelled, make_loader, refuse_fewer_than_processes, training_parts
from lightning_gradood.data.perturbations import Perturbations
from lightning_gradood.data.settings import refuse_settings, refuse_unknown
from lightning_gradood.data.source import ImageBatch, Source
from lightning_gradood.data.splits import Rows


class ImageDataModule(ExperimentSources, LightningDataModule):
    """The images of an experiment: a classifier's training set, its normal test set, and anomalous sources.

    `fit` and `validate` see `train`, of which a stratified part is held out for validation; `test` sees `normal`;
    `predict` sees one loader per detection source, `normal` first. A folder's path may stand in place of a source. What
    attacks and corruptions make of the normal images are further sources, whose images are made while they are probed.

    Args:
        normal: Images like those the classifier was trained on, but unseen by it.
        anomalies: Images it should be suspicious of, by name.
        train: The classifier's training images; None where it is trained already.
        attacks: Attacks on the normal images by name, or the name of a preset: `paper`, `modern` or `pilot`.
        corruptions: Corruptions of the normal images by name, or a severity 1 … 5 at which all fifteen are taken.
        classes: Names of the network's outputs in their order, to which class folders are mapped: a list, or a file with one
            name in each line or with JSON or YAML, e.g. ImageNet's `imagenet_class_index.json`. By default the class folders of
            `train`, or of `normal`, are the outputs, in the order of their names (of their numbers, where these are all that
            differs).
        keep: Which attacked images are detected: `all`, or only the `successful` ones, whose image was classified
            correctly before; then the normal side is those images too (Lee et al. 2018).
        noise_control: Put a copy of each attacked image with Gaussian noise of the attack's L2 norm on the normal side.
        eight_bit: Round attacked and corrupted images to 8 bits a channel, as a file would.
        keep_pixels: Keep the images themselves as records, for other tools, in this type.
        transform: Deterministic; applied once to every image of every source. Pixels stay in [0, 1].
        augment: Maps float training batches [N, C, H, W], on their device, to others; None for no augmentation.
        validation_fraction: The part of `train` that selects the classifier's checkpoint.
        split: The parts of each detection source that fit, select and report a detector.
        split_seed: Seeds these splits and the validation part.
        batch_size: Images per training, validation and test batch, on each process.
        probe_batch_size: Images per predict batch, on each process.
        num_workers: Processes that decode sources too large for memory; others need none.
        limit: The most images to take of each detection source, stratified by class; None for all.
        limits: The most images of single attacks and corruptions, by name; each split of `limit_seed` gives its share.
        limit_seed: Seeds `limit` and `limits`, so that the same images can be split in several ways.
        memory_limit_gib: Sources with at most this many GiB of pixels are decoded once and kept.
        max_megapixels: Larger image files are refused before they are decoded.

    Raises:
        Refusal: A setting is out of its range.
    """

    def __init__(
        self,
        normal: Source | str,
        anomalies: dict[str, Source | str] | None = None,
        train: Source | str | None = None,
        attacks: dict[str, Perturbation] | str | None = None,
        corruptions: dict[str, Perturbation] | int | None = None,
        classes: list[str | int] | str | None = None,
        keep: Literal["all", "successful"] = "all",
        noise_control: bool = False,
        eight_bit: bool = False,
        keep_pixels: Literal["uint8", "float16", "float32"] | None = None,
        transform: Callable[[Any], Any] | None = None,
        augment: nn.Module | None = None,
        validation_fraction: OpenUnitInterval = 0.1,
        split: tuple[float, float, float] = (0.4, 0.4, 0.2),
        split_seed: Seed = 0,
        batch_size: PositiveInt = 128,
        probe_batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt = 0,
        limit: PositiveInt | None = None,
        limits: dict[str, PositiveInt] | None = None,
        limit_seed: Seed = 0,
        memory_limit_gib: FiniteNonNegative = 2.0,
        max_megapixels: PositiveFloat = MEGAPIXELS,
    ) -> None:
        super().__init__()
        self.perturbations = Perturbations.named(attacks, corruptions, noise_control, limits or {}, limit_seed)
        anomalies = anomalies or {}
        refuse_settings([*anomalies, *self.perturbations.names, *self.perturbations.noise_names.values()], split)
        refuse_two_roles(train, normal, anomalies)
        self.normal, self.anomalies, self.train = normal, anomalies, train
        self.augment, self.validation_fraction = augment, validation_fraction
        self.split, self.split_seed = split, split_seed
        self.batch_size, self.probe_batch_size, self.num_workers = batch_size, probe_batch_size, num_workers
        self.limit, self.keep, self.eight_bit, self.keep_pixels = limit, keep, eight_bit, keep_pixels
        self.knows_anomalies, self.output_names = True, None if classes is None else Outputs.read(classes)
        self.opening = Opening(transform, memory_limit_gib, limit_seed, max_megapixels)

    @property
    def predict_sources(self) -> list[str]:
        """The names of the predict loaders, in their order."""
        return list(self.detection_sources)

    def prepare_data(self) -> None:
        """Open what the running stage needs, so that one process alone downloads what is allowed to be downloaded."""
        stage = None if self.trainer is None else self.trainer.state.fn
        if stage in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            _ = self.train_source
        elif stage == TrainerFn.TESTING:
            _ = self.normal_source
        else:
            _ = self.detection_sources

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Load the training images but for the validation part, shuffled."""
        return make_loader(self.train_source, self._train_rows[0], self.batch_size, self.num_workers, shuffle=True)

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Load the validation part of the training images."""
        return make_loader(self.train_source, self._train_rows[1], self.batch_size, self.num_workers)

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """Load the normal source, which must have labels."""
        source = labelled(self.normal_source)
        return make_loader(source, range(len(source)), self.batch_size, self.num_workers)

    def predict_dataloader(self) -> list[DataLoader[ImageBatch]]:
        """Load the detection sources, one loader for each of `predict_sources`.

        Raises:
            Refusal: A source has fewer images than there are processes.
        """
        rows = {name: range(len(source)) for name, source in self.detection_sources.items()}
        return self.probe_dataloaders(rows, 1 if self.trainer is None else self.trainer.world_size)

    def probe_dataloaders(
        self, rows: Mapping[str, Sequence[int] | Rows], processes: int
    ) -> list[DataLoader[ImageBatch]]:
        """Load some rows of some detection sources, one loader for each source that is named.

        Args:
            rows: Source to rows, in the order in which they are loaded.
            processes: How many share them.

        Raises:
            Refusal: A name is not a detection source's, or a source has fewer rows than there are processes.
        """
        refuse_unknown(rows, self.detection_sources)
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
        """Refuse an augmentation that does not map images to images, before the first step; no random numbers are used up.

        Args:
            images: Some of the training images, float [N, C, H, W].

        Raises:
            Refusal: It raises, or gives something else.
        """
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

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Bring pixels to float32 in [0, 1] on the device, or to the Trainer's own precision; augment when training."""
        images = as_float(batch.images)
        if self.trainer is None:
            return batch._replace(images=images)
        if self.trainer.training and self.augment is not None:
            images = self.augment.to(images.device)(images)
        return batch._replace(images=self.trainer.precision_plugin.convert_input(images))

    def on_exception(self, exception: BaseException) -> None:
        """Strip the worker's traceback that torch puts around a refusal from a loader's worker."""
        if isinstance(exception, Refusal):
            exception.args = (str(exception).rpartition("errors.Refusal: ")[2].strip(),)

    @cached_property
    def _train_rows(self) -> tuple[Rows, Rows]:
        return training_parts(self.train_source, self.validation_fraction, named_seed(self.split_seed, "train"))
