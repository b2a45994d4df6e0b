"""Sources of images: what a user configures, and what opening it lists; folders, and data sets by class path."""

import functools
import hashlib
import numbers
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    Component,
    PassedOver,
    Picture,
    PixelLimit,
    Refusal,
    Unreadable,
    eight_bit,
    find_image_files,
    image_suffixes,
    printable,
    read_picture,
    subfolders,
)


@dataclass(frozen=True)
class Listing(ABC):
    """The images found in an opened source, in a fixed order.

    Args:
        keys: One name per image, unique and the same on every machine: a relative posix path, or a zero-padded row.
        labels: One class index per image in this source's own label space; -1 where the class is unknown.
        classes: The class names, `labels` being indices into it; empty where the classes have no names.
    """

    keys: list[str]
    labels: list[int]
    classes: list[str]

    @abstractmethod
    def read(self, row: int) -> Picture:
        """Read the image of one row, before any transform; a Refusal that names it if it cannot be read."""

    def path(self, row: int) -> str:
        """The file of one image; empty where images are no files."""
        return ""

    @abstractmethod
    def fingerprint(self, row: int) -> bytes:
        """Return bytes that change whenever the image of this row does."""


class Source(Component, ABC):
    """A source of images as it is configured, in YAML or in code; nothing is read before `open()`.

    Implementations are frozen dataclasses whose fields are the settings.
    """

    @abstractmethod
    def open(self) -> Listing:
        """List the images, without decoding them where that can be avoided.

        If there are none, a Refusal says what was looked for, where, and how to mend it.
        """


def row_keys(count: int) -> list[str]:
    """The row numbers 0 … `count` - 1 as text of equal length, so that sorting keeps their order."""
    width = len(str(max(count - 1, 0)))
    return [f"{row:0{width}d}" for row in range(count)]


def class_name(index: int, classes: Sequence[str]) -> str:
    """Name of a class; its index where classes have no names, nothing where it is unknown (-1).

    Example:
        >>> class_name(1, ["ant", "bee"]), class_name(7, []), class_name(-1, [])
        ('bee', '7', '')
    """
    if index < 0:
        return ""
    return classes[index] if index < len(classes) else str(index)


_NUMBERED = re.compile(r"(\D*)(\d+)(\D*)")


def class_order(names: Iterable[str]) -> list[str]:
    """Sort names of class folders: by number where they differ in one number alone, else as torchvision's ImageFolder.

    >>> class_order(["10", "2", "1"]), class_order(["b", "a10", "a9"])
    (['1', '2', '10'], ['a10', 'a9', 'b'])
    """
    plain = sorted(names)
    matches = [match for name in plain if (match := _NUMBERED.fullmatch(name))]
    if len(matches) < len(plain) or len({(match[1], match[3]) for match in matches}) > 1:
        return plain
    return sorted(plain, key=lambda name: int(_NUMBERED.fullmatch(name)[2]))  # type: ignore[index]  # all match


LAYOUTS = "either one sub-folder per class (`root/<class>/image.png`) or the images themselves"


@dataclass(frozen=True)
class FolderSource(Source):
    """Image files below a folder: one sub-folder per class, as torchvision's `ImageFolder` reads them, or no classes.

    Classes are the names of the sub-folders, sorted, by number where they differ in a number alone (`10` behind `9`);
    files may lie at any depth below them. A flat folder gives images of unknown class (-1), and so do images that lie
    beside class folders. A class folder without images keeps its place among the classes. Every suffix that Pillow or
    an installed plugin of it reads is an image's; of several frames the first is taken, turned upright as EXIF says,
    and converted to RGB. Other suffixes, names that start with a dot, files of operating systems, broken links and
    pipes are passed over and counted in one line.

    Args:
        root: The folder, absolute or relative to the working directory; `~` is expanded.

    Example:
        >>> FolderSource("photos").root
        'photos'
    """

    root: str

    @override
    def open(self) -> "FolderListing":
        root = Path(self.root).expanduser()
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise Refusal(
                f"`root` should be a folder of images. Got `root = {self.root}`, which {what} "
                f"(looked at {root.absolute()}). Correct the path, or put images there: {LAYOUTS}."
            )
        passed = PassedOver()
        folders = class_order(subfolders(str(root), passed))
        by_class = {name: list(find_image_files(str(root / name), passed)) for name in folders}
        loose = list(find_image_files(str(root), passed, deep=False))
        if not loose and not any(by_class.values()):
            left = passed.sentence("It")
            raise Refusal(
                f"`root` should hold images ({', '.join(sorted(image_suffixes()))}). Got `root = {self.root}` with none "
                f"(looked at {root.absolute()}). {f'{left} ' if left else ''}Put images there: {LAYOUTS}."
            )
        classes = list(by_class) if any(by_class.values()) else []
        pairs = [(file, -1) for file in loose]
        pairs += [(file, label) for label, name in enumerate(classes) for file in by_class[name]]
        names = [os.path.relpath(file, root) for file, _ in pairs]
        return FolderListing(
            keys=[printable(Path(name).as_posix()) for name in names],
            labels=[label for _, label in pairs],
            classes=[printable(name) for name in classes],
            root=root,
            names=names,
            notes=_notes(str(root), passed, loose if classes else [], [name for name in classes if not by_class[name]]),
        )


def _notes(place: str, passed: PassedOver, loose: list[str], empty: list[str]) -> tuple[str, ...]:
    """What a user should know of the folder, a line each."""
    notes = [passed.sentence(place)]
    if loose:
        example = printable(os.path.basename(loose[0]))
        notes.append(f"{len(loose):,} images beside the class folders, e.g. `{example}`, have no class.")
    if empty:
        shown = ", ".join(f"`{printable(name)}`" for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        notes.append(f"class folders without images keep their place among the classes: {shown}.")
    return tuple(filter(None, notes))


_READING = b"EXIF's orientation applied"  # part of each file's fingerprint: another way of reading gives other pixels


@dataclass(frozen=True)
class FolderListing(Listing):
    """Image files below `root`."""

    root: Path
    names: list[str]  # paths below it; `keys` are these as posix paths in which bytes that are no UTF-8 are escaped
    notes: tuple[str, ...] = ()  # what a user should know of it, a line each
    limit: PixelLimit | None = None  # how large an image may be

    @override
    def read(self, row: int) -> Image.Image:
        path = self.root / self.names[row]
        try:
            return read_picture(path, limit=self.limit)
        except Unreadable as error:
            raise self._unreadable(path, str(error).partition(". Got: ")[2].rstrip(".")) from error

    @override
    def path(self, row: int) -> str:
        return printable(str(self.root / self.names[row]))

    @override
    def fingerprint(self, row: int) -> bytes:
        path = self.root / self.names[row]
        try:
            with open(path, "rb") as file:
                return hashlib.sha256(_READING + hashlib.file_digest(file, "sha256").digest()).digest()
        except OSError as error:
            raise self._unreadable(path, error.strerror) from error

    def _unreadable(self, path: Path, reason: str | None) -> Refusal:
        return Refusal(
            f"`root` should hold readable images. Got `{printable(str(path))}`: {reason or 'it is gone'}. "
            "Remove that file or replace it by a whole one."
        )


@dataclass(frozen=True)
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

    dataset: Callable[[], Dataset[Any]]
    where: str = ""
    how: str = ""

    @override
    def open(self) -> Listing:
        try:
            dataset = self.dataset()
        except Refusal:
            raise
        except Exception as error:  # each data set has words of its own for what is missing or wrong
            raise _not_built(self, error) from error
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


def _not_built(source: DatasetSource, error: Exception) -> Refusal:
    """Word what keeps a data set from being built: missing files, network or reader, or arguments that are wrong."""
    factory, arguments = source.dataset, dict[str, Any]()
    made: Any = factory
    if isinstance(factory, functools.partial):  # as jsonargparse hands over a class path
        made = next((argument for argument in reversed(factory.args) if isinstance(argument, type)), factory.func)
        arguments = factory.keywords
    name = getattr(made, "__name__", type(made).__name__)
    got = f"Got `dataset = {name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})`: "
    reason = " ".join(str(error).split()).split("You can use download")[0].rstrip(" .")
    if not isinstance(error, (OSError, RuntimeError, ImportError)):
        return Refusal(
            f"`dataset` should have arguments that it can be built with. {got}{type(error).__name__}: {reason}. "
            "Correct that argument, or leave it out for its default."
        )
    where = source.where or arguments.get("root", "")
    place = f"in `{Path(where).expanduser().absolute()}`" if where else "where its own arguments say"
    how = source.how or _BY_HAND.get(name, "Put its files there")
    return Refusal(
        f"`dataset` should find its files {place}. {got}{reason or type(error).__name__}. {how.rstrip('.')}; "
        "`configs/digits.yaml` needs no download."
    )
