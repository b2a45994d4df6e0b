"""Any map-style data set as a source, and `LoadedSource`, an opened source whose images are ready for a network."""

import functools
import hashlib
import numbers
import re
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Picture, Refusal, Transform, eight_bit, progress, to_pixels
from lightning_gradood.data.source import (
    ImageBatch,
    Listing,
    Source,
    check_deterministic,
    row_keys,
)


class DatasetSource(Source):
    """The images of a map-style data set, which is built when the source is opened.

    Items are an image, or a tuple that starts with an image and a class index; an image is a PIL image or a tensor
    [C, H, W] (uint8, or float in [0, 1]). Grey PIL images stay one channel, other modes become RGB; EXIF's orientation
    is the data set's business. A negative class means unknown.

    Args:
        dataset: What builds the data set. In YAML the data set itself by `class_path` and `init_args`.
        where: Where its files are looked for, for the message when they are missing; by default the argument `root`.
        how: How its files are placed by hand, for the same message; known for the data sets of our configs.

    Example:
        >>> from torchvision.datasets import FakeData
        >>> len(DatasetSource(lambda: FakeData(size=3)).open().keys)
        3
    """

    def __init__(self, dataset: Callable[[], Dataset[Any]], where: str = "", how: str = "") -> None:
        self.dataset = dataset
        self.where = where
        self.how = how

    @override
    def open(self) -> Listing:
        try:
            dataset = self.dataset()
        except (OSError, RuntimeError, ImportError) as error:  # missing files, no network, no reader such as scipy
            raise Refusal(_files_missing(self.dataset, self.where, self.how, error)) from error
        except Refusal:
            raise
        except Exception as error:  # each data set has words of its own for arguments that are wrong
            raise Refusal(_arguments_wrong(self.dataset, error)) from error
        if not isinstance(dataset, Sized):
            raise Refusal(
                f"`dataset` should be a map-style data set with a length. Got `dataset = {type(dataset).__name__}`. "
                "Wrap it in one that reads its images by index."
            )
        classes = [str(name) for name in getattr(dataset, "classes", None) or []]
        listing = DatasetListing(row_keys(len(dataset)), [], classes, dataset)
        listing.labels.extend(_ready_labels(dataset) or [listing.label(row) for row in range(len(dataset))])
        return listing


@dataclass(frozen=True)
class DatasetListing(Listing):
    """The rows of a map-style data set."""

    dataset: Dataset[Any]

    @override
    def read(self, row: int) -> Picture:
        item = self._item(row)
        image = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(image, Image.Image):
            image = eight_bit(image, f"{type(self.dataset).__name__}[{row}]")
            return image if image.mode in ("L", "RGB") else image.convert("RGB")
        if isinstance(image, Tensor):
            return image
        raise Refusal(
            "`dataset` should give PIL images or tensors, alone or first in a tuple. Got "
            f"`{type(image).__name__}` in row {row} of `{type(self.dataset).__name__}`. Wrap it in one that does."
        )

    def label(self, row: int) -> int:
        """The class index of one item, -1 where it has none."""
        item = self._item(row)
        return _as_label(item[1]) if isinstance(item, (tuple, list)) and len(item) > 1 else -1

    @override
    def fingerprint(self, row: int) -> bytes:
        pixels = np.asarray(self.read(row))
        return hashlib.sha256(repr((pixels.shape, str(pixels.dtype))).encode() + pixels.tobytes()).digest()

    def _item(self, row: int) -> Any:
        try:
            return self.dataset[row]
        except Refusal:
            raise
        except Exception as error:  # decoders raise whatever their parsing runs into
            raise Refusal(
                f"`dataset` should give a readable image for every row. Got `{type(self.dataset).__name__}` "
                f"failing in row {row}: {str(error) or type(error).__name__}. Remove or replace that image."
            ) from error


def _ready_labels(dataset: Any) -> list[int]:
    """The labels a data set keeps beside its images, or nothing where items must be read for them."""
    if getattr(dataset, "target_transform", None) is not None:  # the labels kept are those before it
        return []
    for name in ("targets", "labels"):
        kept = np.asarray(getattr(dataset, name, ()))
        if kept.ndim == 1 and len(kept) == len(dataset) and kept.dtype.kind in "iu":
            return [_as_label(label) for label in kept]
    return []


def _as_label(label: Any) -> int:
    if isinstance(label, Tensor) and label.ndim == 0:
        label = label.item()
    return max(int(cast(int, label)), -1) if isinstance(label, numbers.Integral) else -1


# How the files of the data sets in our configs are placed by hand, by class name.
_BY_HAND = {
    "CIFAR10": "Unpack `cifar-10-python.tar.gz` there, so that `cifar-10-batches-py/data_batch_1` exists below it",
    "CIFAR100": "Unpack `cifar-100-python.tar.gz` there, so that `cifar-100-python/train` exists below it",
    "SVHN": "Put `train_32x32.mat` and `test_32x32.mat` there",
    "TinyImageNetResize": "Put ODIN's `Imagenet_resize.tar.gz` there and unpack it beside itself, "
    "so that `Imagenet_resize/Imagenet_resize/` holds the images",
    "LSUNResize": "Put ODIN's `LSUN_resize.tar.gz` there and unpack it beside itself, "
    "so that `LSUN_resize/LSUN_resize/` holds the images",
}


def _files_missing(factory: Callable[[], Any], where: str, how: str, error: Exception) -> str:
    name, arguments = _describe(factory)
    where = where or arguments.get("root", "")
    place = f"in `{Path(where).expanduser().absolute()}`" if where else "where its own arguments say"
    how = how or _BY_HAND.get(name, "Put its files there")
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
    reason = " ".join(str(error).split()).split("You can use download")[0].rstrip(" .")
    return (
        f"`dataset` should find its files {place}. Got `dataset = {name}({shown})`: "
        f"{reason or type(error).__name__}. {how.rstrip('.')}; `configs/digits.yaml` needs no download."
    )


def _arguments_wrong(factory: Callable[[], Any], error: Exception) -> str:
    name, arguments = _describe(factory)
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    reason = " ".join(str(error).split()).rstrip(" .")
    return (
        f"`dataset` should have arguments that it can be built with. Got `dataset = {name}({shown})`: "
        f"{type(error).__name__}: {reason}. Correct that argument, or leave it out for its default."
    )


def _describe(factory: Callable[[], Any]) -> tuple[str, dict[str, Any]]:
    """Class name and arguments behind a data set factory; jsonargparse hands over a `functools.partial`."""
    if not isinstance(factory, functools.partial):
        return getattr(factory, "__name__", type(factory).__name__), {}
    built = next((arg for arg in reversed(factory.args) if isinstance(arg, type)), factory.func)
    return getattr(built, "__name__", type(built).__name__), dict(factory.keywords)


GIB = 2**30


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
        self.name = name
        self.transform = transform
        self.classes = listing.classes
        self._listing = listing
        self._rows = range(len(listing.keys)) if rows is None else [int(row) for row in rows]
        self.ids = [f"{name}/{listing.keys[row]}" for row in self._rows]
        self.labels: NDArray[np.int64] = np.array([listing.labels[row] for row in self._rows], dtype=np.int64)
        self.num_classes = len(listing.classes) or max(listing.labels) + 1 or None
        self._refuse_repeated_keys()
        first = self._prepared(0)
        check_deterministic(lambda: self._prepared(0), transform)
        self.shape = tuple(first.shape)
        self.dtype = first.dtype
        self.in_memory = len(self.ids) * first.numel() * first.element_size() <= memory_limit

    def forget_classes(self) -> None:
        """Leave out labels and names of classes: every image is of unknown class."""
        self.labels = np.full_like(self.labels, -1)
        self.classes, self.num_classes = [], None
        vars(self).pop("_digest", None)

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

    def __getitem__(self, row: int) -> ImageBatch:
        images, labels, rows = self.__getitems__([row])
        return ImageBatch(images[0], labels[0], rows[0])

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
        self._refuse_address_in_repr()
        total.update(repr(self.transform).encode())
        total.update(b"".join(self.fingerprints))
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

    def _refuse_repeated_keys(self) -> None:
        if len(set(self.ids)) < len(self.ids):
            repeated = next(key for n, key in enumerate(self.ids) if key in self.ids[:n])
            raise Refusal(
                f"`keys` should be unique in a source. Got `{repeated}` twice. "
                "Let the source's listing number its keys."
            )

    def _refuse_address_in_repr(self) -> None:
        if re.search(r" at 0x[0-9a-fA-F]+", repr(self.transform)):
            raise Refusal(
                "`transform` should have a repr that says what it does, so that records can be found again. "
                f"Got `transform = {self.transform!r}`. Give its class a `__repr__` with its settings, "
                "or raise `limits.memory_gib` above the size of the images."
            )


class SourceRows(Dataset[ImageBatch]):
    """Some rows of a loaded source, in the order given; batches name rows of the whole source."""

    def __init__(self, source: LoadedSource, rows: Sequence[int] | NDArray[np.int64]) -> None:
        self.source = source
        self.rows = np.asarray(rows, dtype=np.int64)  # rather than a list: there may be millions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageBatch:
        return self.source[int(self.rows[index])]

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        return self.source.__getitems__(self.rows[list(indices)].tolist())
