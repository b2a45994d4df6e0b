"""Opened sources as data sets of whole batches, their loaders, and the augmentation of training batches."""

import hashlib
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    MEGAPIXELS,
    FiniteNonNegative,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Refusal,
    Seed,
    Transform,
    progress,
    to_pixels,
)
from lightning_gradood.data.source import Listing

Rows = NDArray[np.int64]
GIB = 2**30
TRIES = 8  # a flip that happens half the time is missed once in 128


@dataclass(frozen=True)
class Limits:
    """How many images are taken, stratified by class, and how large they may be.

    Args:
        images: The most images of each detection source; None for all.
        sources: The most images of single ones, by name, attacks and corruptions too, of which each split gives its
            share.
        seed: Chooses the images, so that the same ones can be split in several ways.
        memory_gib: Sources with at most this many GiB of pixels are decoded once and kept.
        megapixels: Larger image files are refused before they are decoded.
    """

    images: PositiveInt | None = None
    sources: dict[str, PositiveInt] | None = None
    seed: Seed = 0
    memory_gib: FiniteNonNegative = 2.0
    megapixels: PositiveFloat = MEGAPIXELS


class ImageBatch(NamedTuple):
    """A batch of images of one source.

    Args:
        images: [N, C, H, W]; uint8 as loaded where the source is, float32 in [0, 1] once on the device.
        labels: Class indices, int64 [N]; -1 where the class is unknown.
        rows: The images' rows in their source, int64 [N]: `source.ids[row]` is the id.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor


class LoadedSource(Dataset[ImageBatch]):
    """The images of one source under its name, as a map-style data set of whole batches.

    Nothing is decoded before it is needed, except the first image, which sets the shape. If all images together stay
    below the memory limit they are then decoded once and kept as one tensor; otherwise each batch is decoded anew.

    Args:
        name: The source's name; ids are `<name>/<key>`.
        listing: The opened source; keys are unique.
        transform: Deterministic; called once per image.
        rows: Which rows of the listing, ascending; None for all.
        memory_limit: The most bytes of pixels to keep in memory.
    """

    def __init__(
        self,
        name: str,
        listing: Listing,
        transform: Transform | None = None,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        memory_limit: int = 2 * GIB,
    ) -> None:
        self.name, self.transform, self.classes = name, transform, listing.classes
        self._listing = listing
        self._rows = range(len(listing.keys)) if rows is None else [int(row) for row in rows]
        self.ids = [f"{name}/{listing.keys[row]}" for row in self._rows]
        self.labels: NDArray[np.int64] = np.array([listing.labels[row] for row in self._rows], dtype=np.int64)
        self.num_classes = len(listing.classes) or max(listing.labels) + 1 or None
        if len(set(self.ids)) < len(self.ids):
            repeated = next(key for n, key in enumerate(self.ids) if key in self.ids[:n])
            raise Refusal(
                f"`keys` should be unique in a source. Got `{repeated}` twice. Let the source's listing number its keys."
            )
        first = self._prepared(0)
        if transform is not None and any(not torch.equal(first, self._prepared(0)) for _ in range(TRIES - 1)):
            raise Refusal(
                "`transform` should be deterministic: it is applied once, and its result is kept. "
                f"Got `transform = {transform!r}`, which gave one image in different ways. "
                "Leave random changes to `augment`, which is applied to training batches anew each time."
            )
        self.shape, self.dtype = tuple(first.shape), first.dtype
        self.in_memory = len(self.ids) * first.numel() * first.element_size() <= memory_limit

    def forget_classes(self) -> None:
        """Leave out labels and names of classes: every image is of unknown class."""
        self.labels = np.full_like(self.labels, -1)
        self.classes, self.num_classes = [], None
        vars(self).pop("_digest", None)

    def labelled(self) -> "LoadedSource":
        """Return the source, or refuse it if an image has no class."""
        if unknown := int((self.labels < 0).sum()):
            raise Refusal(
                f"`{self.name}` should have a class for every image, to train or test a classifier. "
                f"Got `{self.name}` with {unknown} of {len(self)} without. "
                "Put the images into one folder per class, or name a data set with labels."
            )
        return self

    def refuse_other_shape(self, normal: "LoadedSource") -> None:
        """Refuse images of another shape than those of the normal source."""
        if self.shape != normal.shape:
            raise Refusal(
                f"`{self.name}` should hold images of shape {list(normal.shape)} [C, H, W], as `normal` does. "
                f"Got `{self.name}` with {list(self.shape)}. Give a `transform` that brings all to one size and "
                "the same channels, e.g. torchvision.transforms.v2.Resize with size [32, 32], v2.RGB or v2.Grayscale."
            )

    @property
    def picture(self) -> Literal["RGB", "L"]:
        """How its pictures are before the transform: `L` for one channel of grey, else `RGB`."""
        first = self._listing.read(self._rows[0])
        grey = first.mode == "L" if isinstance(first, Image.Image) else first.shape[0] == 1
        return "L" if grey else "RGB"

    def path(self, row: int) -> str:
        """The file of an image; empty where images are no files."""
        return self._listing.path(self._rows[row])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, rows: Sequence[int]) -> ImageBatch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        return ImageBatch(self.images(rows), torch.from_numpy(self.labels)[index], index)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Images as uint8 or float32 in [0, 1], [len(rows), C, H, W]; a shape other than the first's is refused."""
        if self.in_memory:
            return self._all[torch.as_tensor(rows, dtype=torch.int64)]
        return torch.stack([self._checked(row) for row in rows])

    def digest(self) -> str:
        """A SHA-256 that changes with the ids' keys, the labels, or any pixel after the transform.

        It covers the pixels themselves if they are in memory, otherwise each file's content and the transform's repr,
        which is refused if it holds a memory address.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        keys = "\0".join(key.removeprefix(f"{self.name}/") for key in self.ids)
        total = hashlib.sha256(f"{keys}\0\0{self.labels.tolist()}{self.shape}{self.dtype}".encode())
        if self.in_memory:
            total.update(self._all.numpy().tobytes())
            return total.hexdigest()
        if re.search(r" at 0x[0-9a-fA-F]+", repr(self.transform)):
            raise Refusal(
                "`transform` should have a repr that says what it does, so that records can be found again. "
                f"Got `transform = {self.transform!r}`. Give its class a `__repr__` with its settings, "
                "or raise `limits.memory_gib` above the size of the images."
            )
        total.update(repr(self.transform).encode() + b"".join(self.fingerprints))
        return total.hexdigest()

    @cached_property
    def fingerprints(self) -> list[bytes]:
        """Bytes for each image that are the same for the same image.

        They cover the pixels after the transform if these are in memory, otherwise what the listing compares.
        """
        if self.in_memory:
            return [hashlib.sha256(image.numpy().tobytes()).digest() for image in self._all]
        return self.original_fingerprints

    @cached_property
    def original_fingerprints(self) -> list[bytes]:
        """Bytes for each image as its listing compares them, before the transform."""
        return [self._listing.fingerprint(self._rows[row]) for row in self._progress("digesting")]

    @cached_property
    def _all(self) -> Tensor:
        images = torch.empty((len(self), *self.shape), dtype=self.dtype)
        for row in self._progress("reading"):
            images[row] = self._checked(row)
        return images

    def _progress(self, verb: str) -> Iterator[int]:
        quiet = bool(getattr(rank_zero_only, "rank", 0))  # every process reads for itself, one of them reports
        return progress(range(len(self)), f"{verb} {self.name}", len(self), "images", quiet)

    def _checked(self, row: int) -> Tensor:
        image = self._prepared(row)
        if tuple(image.shape) != self.shape or image.dtype != self.dtype:
            raise Refusal(
                f"`{self.name}` should hold images of one shape, {list(self.shape)} {self.dtype} as `{self.ids[0]}`. "
                f"Got `{self.ids[row]}` with {list(image.shape)} {image.dtype}. "
                "Give a `transform` that ends in one size, e.g. torchvision.transforms.v2.Resize with size [32, 32]."
            )
        return image

    def _prepared(self, row: int) -> Tensor:
        return to_pixels(self._listing.read(self._rows[row]), self.transform, self.ids[row])


class RowChooser(pl.Callback, ABC):
    """A callback that chooses which images of an `ImageDataModule` a Trainer's `predict` loads."""

    @abstractmethod
    def choose_rows(self, trainer: pl.Trainer, data: Any) -> Mapping[str, Sequence[int] | Rows]:
        """Return rows by clean source, in the order of the loaders; a source that is not named has no loader.

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
        Subset(source, rows),  # type: ignore[arg-type]  # an array takes less memory than a list of millions
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


def _as_it_is(batch: Any) -> Any:
    """Collate nothing, as our data sets give whole batches; a function of its own so that workers can unpickle it."""
    return batch


class RandomCropFlip(nn.Module):
    """Shift each image by up to `padding` pixels and mirror every other one: the usual augmentation for CIFAR.

    Transforms of torchvision.transforms.v2 draw once per batch; this module draws for each image.

    Maps float images [N, C, H, W] to the same shape and dtype, with randomness from torch's generator of their device.

    Args:
        padding: The largest shift in pixels, in each direction.
        flip: Mirror each image left to right with probability one half.
        fill: What comes in at the edge: black, or the image reflected.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, section 4.2, after Lee et al., Deeply-Supervised Nets.

    Example:
        >>> RandomCropFlip()(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self, padding: NonNegativeInt = 4, flip: bool = True, fill: Literal["zeros", "reflect"] = "zeros"
    ) -> None:
        super().__init__()
        self.padding, self.flip, self.fill = padding, flip, fill

    @override
    def forward(self, images: Tensor) -> Tensor:
        count, channels, height = images.shape[:3]
        padded = F.pad(images, [self.padding] * 4, mode="reflect" if self.fill == "reflect" else "constant")
        rows = self._offsets(images) + torch.arange(height, device=images.device)
        shift = self._offsets(images)
        columns = torch.arange(images.shape[-1], device=images.device).expand(count, -1)
        if self.flip:
            mirrored = torch.rand((count, 1), device=images.device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        columns = shift + columns
        n = torch.arange(count, device=images.device)[:, None, None, None]
        c = torch.arange(channels, device=images.device)[None, :, None, None]
        return padded[n, c, rows[:, None, :, None], columns[:, None, None, :]]

    def _offsets(self, images: Tensor) -> Tensor:  # [N, 1]
        return torch.randint(2 * self.padding + 1, (len(images), 1), device=images.device)
