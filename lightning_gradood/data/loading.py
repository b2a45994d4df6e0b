"""Opened sources as data sets of whole batches, and the augmentation of training batches."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    MEGAPIXELS,
    TRANSPARENT,
    FiniteNonNegative,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Refusal,
    Seed,
    Transform,
    Unreadable,
    progress,
    to_pixels,
)
from lightning_gradood.data.source import Listing
from lightning_gradood.data.splits import Rows

GIB = 2**30
_LOOKED = 20_000  # images that are read after one that cannot be, to name others


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
    """A batch of images of one source."""

    images: Tensor  # [N, C, H, W]; uint8 as loaded where the source is, float32 in [0, 1] once on the device
    labels: Tensor  # class indices, int64 [N]; -1 where the class is unknown
    rows: Tensor  # of the source, int64 [N]: `source.ids[row]` is the id


class LoadedSource(Dataset[ImageBatch]):
    """The images of one source under its name, some rows of its listing, as a map-style data set of whole batches.

    Nothing is decoded before it is needed, except the first image, which sets the shape. If all images together stay
    below `memory_limit` bytes they are then decoded once and kept as one tensor; otherwise each batch is decoded anew.
    """

    def __init__(
        self,
        name: str,
        listing: Listing,
        transform: Transform | None = None,
        rows: Sequence[int] | Rows | None = None,
        memory_limit: int = 2 * GIB,
    ) -> None:
        self.name, self.transform, self.classes = name, transform, listing.classes
        self._listing, self._transparent = listing, dict[int, bool]()
        self._rows = range(len(listing.keys)) if rows is None else [int(row) for row in rows]
        self.ids = [f"{name}/{listing.keys[row]}" for row in self._rows]
        self.labels: NDArray[np.int64] = np.array([listing.labels[row] for row in self._rows], dtype=np.int64)
        self.num_classes = len(listing.classes) or max(listing.labels) + 1 or None
        if len(set(self.ids)) < len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise Refusal(f"`keys` should be unique in a source. Got `{twice}` twice. Let its listing number its keys.")
        first = self._prepared(0)
        # a flip that happens half the time is missed once in 128
        if transform is not None and any(not torch.equal(first, self._prepared(0)) for _ in range(7)):
            raise Refusal(
                "`transform` should be deterministic: it is applied once, and its result is kept. Got `transform = "
                f"{transform!r}`, which gave one image in different ways. Leave random changes to `augment`."
            )
        self.shape, self.dtype = tuple(first.shape), first.dtype
        self.in_memory = len(self.ids) * first.numel() * first.element_size() <= memory_limit

    def forget_classes(self) -> None:
        """Leave out labels and names of classes: every image is of unknown class."""
        self.labels = np.full_like(self.labels, -1)
        self.classes, self.num_classes = [], None

    def labelled(self) -> "LoadedSource":
        """Return the source, or refuse it if an image has no class."""
        if unknown := int((self.labels < 0).sum()):
            raise Refusal(
                f"`{self.name}` should have a class for every image, to train or test a classifier. Got `{self.name}` with "
                f"{unknown} of {len(self)} without. Put them into one folder per class, or name a data set with labels."
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

    def of_each_class(self, number: int, seed: int) -> "LoadedSource":
        """At most so many random images of each class, in the source's order."""
        shuffled = np.random.default_rng(seed).permutation(len(self))
        rows = [shuffled[self.labels[shuffled] == label][:number] for label in np.unique(self.labels)]
        chosen, most = np.sort(np.concatenate(rows)).tolist(), sys.maxsize if self.in_memory else 0
        return LoadedSource(self.name, self._listing, self.transform, [self._rows[row] for row in chosen], most)

    @cached_property
    def parts(self) -> list[str]:
        """The part of the source that each image was named for; empty where splits are drawn."""
        found = [self._listing.part(row) for row in self._rows]
        return found if any(found) else []

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

        It covers the pixels themselves if they are in memory, otherwise each file's content and the transform's repr.
        """
        keys = "\0".join(key.removeprefix(f"{self.name}/") for key in self.ids)
        total = hashlib.sha256(f"{keys}\0\0{self.labels.tolist()}{self.shape}{self.dtype}".encode())
        if self.in_memory:
            total.update(self._all.numpy().data)
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
        """Bytes for each image, the same for the same image: of its pixels if these are in memory, else of its file."""
        if self.in_memory:
            return [hashlib.sha256(image.numpy().tobytes()).digest() for image in self._all]
        return self.original_fingerprints

    @cached_property
    def original_fingerprints(self) -> list[bytes]:
        """Bytes for each image as its listing compares them, before the transform."""
        return [self._listing.fingerprint(self._rows[row]) for row in self._progress("digesting")]

    @property
    def groups(self) -> Rows:
        """For each image the row of the first one that is the same, int64 [N]."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(mark, row) for row, mark in enumerate(self.fingerprints)], dtype=np.int64)

    def say_duplicates(self, groups: Rows) -> None:
        """Print one line where images are there more than once."""
        copies = Counter(groups.tolist())
        if several := [row for row, number in copies.items() if number > 1]:
            one, other = (self.ids[row] for row in np.flatnonzero(groups == several[0])[:2])
            rank_zero_info(
                f"{self.name}: {sum(copies[row] for row in several):,} of {len(groups):,} images are there more than once "
                f"({len(several):,} different ones), e.g. `{one}` and `{other}`. "
                + ("Their splits are those named." if self.parts else "The same images are in the same split.")
            )

    def say_shared(self, other: "LoadedSource", of_other: str, consequence: str) -> None:
        """Print one line where images are those of another source too."""
        alike = self.in_memory == other.in_memory  # else one would be compared by pixels and the other by files
        mine, theirs = (one.fingerprints if alike else one.original_fingerprints for one in (self, other))
        known = {mark: row for row, mark in reversed(list(enumerate(theirs)))}
        if shared := [(self.ids[row], other.ids[known[mark]]) for row, mark in enumerate(mine) if mark in known]:
            rank_zero_info(
                f"{self.name}: {len(shared):,} of {len(self):,} images are also {of_other}, e.g. `{shared[0][0]}` is "
                f"`{shared[0][1]}`. {consequence}: remove them from one of the two."
            )

    @cached_property
    def _all(self) -> Tensor:
        images = torch.empty((len(self), *self.shape), dtype=self.dtype)
        for row in self._progress("reading"):
            images[row] = self._checked(row)
        if lost := sum(self._transparent.values()):
            rank_zero_info(
                f"{self.name}: {lost:,} of {len(self):,} images are transparent; their transparency is dropped, which "
                "shows the colours stored behind it, as in torchvision."
            )
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
        try:
            picture = self._listing.read(self._rows[row])
        except Unreadable as error:
            looked = self._rows[: row + _LOOKED]
            bad = [self._listing.keys[one] for one in unreadable(self.name, self._listing, looked)]
            shown = ", ".join(bad[:10]) + ", …" * (len(bad) > 10)
            raise Unreadable(
                f"{error} Of {len(looked):,} images of `{self.name}` {len(bad):,} cannot be read: {shown}. Remove them, or go on "
                "without them with `--detection.on_bad_image skip`."
            ) from error
        if isinstance(picture, Image.Image):
            self._transparent[row] = picture.info.get(TRANSPARENT, False)
        return to_pixels(picture, self.transform, self.ids[row])


def readable_rows(name: str, listing: Listing, rows: Rows) -> Rows:
    """Leave out rows whose images cannot be read, with a line; all stay where none can."""
    bad = unreadable(name, listing, rows.tolist())
    if not bad or len(bad) == len(rows):
        return rows
    shown = ", ".join(listing.keys[row] for row in bad[:10]) + ", …" * (len(bad) > 10)
    rank_zero_info(f"{name}: {len(bad):,} of {len(rows):,} images cannot be read and are left out: {shown}.")
    return np.setdiff1d(rows, bad)


def unreadable(name: str, listing: Listing, rows: Sequence[int]) -> list[int]:
    """Read some images of a listing, and return the rows of those that cannot be read."""
    bad = list[int]()
    for row in progress(rows, f"looking through {name}", len(rows), "images", bool(getattr(rank_zero_only, "rank", 0))):
        try:
            listing.read(row)
        except Unreadable:
            bad.append(row)
    return bad


class RandomCropFlip(nn.Module):
    """Shift each image by up to `padding` pixels and mirror every other one: the usual augmentation for CIFAR.

    Transforms of torchvision.transforms.v2 draw once per batch; this module draws for each image. Maps float images
    [N, C, H, W] to the same shape and dtype, with randomness from torch's generator of their device.

    Args:
        padding: The largest shift in pixels, in each direction.
        flip: Mirror each image left to right with probability one half.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, section 4.2, after Lee et al., Deeply-Supervised Nets.
    """

    def __init__(self, padding: NonNegativeInt = 4, flip: bool = True) -> None:
        super().__init__()
        self.padding, self.flip = padding, flip

    @override
    def forward(self, images: Tensor) -> Tensor:
        (count, channels, height, width), device = images.shape, images.device
        padded = F.pad(images, [self.padding] * 4)
        down, right = (torch.randint(2 * self.padding + 1, (count, 1), device=device) for _ in range(2))
        rows, columns = down + torch.arange(height, device=device), torch.arange(width, device=device).expand(count, -1)
        if self.flip:
            columns = torch.where(torch.rand((count, 1), device=device) < 0.5, columns.flip(1), columns)
        n, c = torch.arange(count, device=device), torch.arange(channels, device=device)
        return padded[
            n[:, None, None, None], c[:, None, None], rows[:, None, :, None], (right + columns)[:, None, None, :]
        ]
