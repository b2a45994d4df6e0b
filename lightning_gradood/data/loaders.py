"""Data loaders over loaded sources, and the callbacks that choose what `predict` loads."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lightning_gradood.core import Refusal
from lightning_gradood.data.datasets import LoadedSource, SourceRows
from lightning_gradood.data.duplicates import groups_of, say_duplicates
from lightning_gradood.data.source import ImageBatch, as_it_is
from lightning_gradood.data.splits import Rows, split_rows


class RowChooser(pl.Callback, ABC):
    """A callback that chooses which images of an `ImageDataModule` a Trainer's `predict` loads."""

    @abstractmethod
    def choose_rows(self, trainer: pl.Trainer, data: Any) -> Mapping[str, Sequence[int] | Rows]:
        """Return rows by detection source, in the order of the loaders; a source that is not named has no loader.

        It is called on every process when the network has its weights and its device, before the loop begins.
        """


def make_loader(
    source: LoadedSource,
    rows: Sequence[int] | NDArray[np.int64],
    batch_size: int,
    num_workers: int = 0,
    shuffle: bool = False,
) -> DataLoader[ImageBatch]:
    """Load some rows of a source in batches of `ImageBatch`."""
    if source.in_memory:
        num_workers = 0
        # Lightning's advice would slow these loaders down: there is nothing left to decode.
        warnings.filterwarnings("ignore", ".*does not have many workers", PossibleUserWarning)
    return DataLoader(
        SourceRows(source, rows),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=as_it_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


def training_parts(source: LoadedSource, validation_fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Split the training images into those trained on and those that select the checkpoint, stratified by class.

    Copies of an image are in one of them, if the images are in memory; others would have to be read once more.
    """
    groups = groups_of(source) if source.in_memory else None
    if groups is not None:
        say_duplicates(source, groups)
    train, val = split_rows(source.labels, [1 - validation_fraction, validation_fraction], seed, groups)
    if len(train) == 0 or len(val) == 0:
        raise Refusal(
            "`train` should have enough images for a validation part. "
            f"Got `train` with {len(source)} and `split.validation = {validation_fraction}`. "
            "Add images, or move the fraction towards 0.5."
        )
    return train, val


def labelled(source: LoadedSource) -> LoadedSource:
    """Return the source, or refuse it if an image has no class."""
    unknown = int((source.labels < 0).sum())
    if unknown:
        raise Refusal(
            f"`{source.name}` should have a class for every image, to train or test a classifier. "
            f"Got `{source.name}` with {unknown} of {len(source)} without. "
            "Put the images into one folder per class, or name a data set with labels."
        )
    return source


def refuse_fewer_than_processes(source: LoadedSource, rows: Sequence[int] | Rows, processes: int) -> None:
    """Refuse to spread rows over more processes than rows, for which Lightning raises a bare assertion."""
    if len(rows) < processes:
        raise Refusal(
            f"`{source.name}` should have at least one image for each process. "
            f"Got `{source.name}` with {len(rows)} to probe and {processes} processes. "
            f"Use at most {len(rows)}, with `--trainer.devices {len(rows)}`."
        )
