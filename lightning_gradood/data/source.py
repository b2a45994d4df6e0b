"""Sources of images: what a user configures, and what opening it lists; folders, data sets, and what scikit-learn has."""

import functools
import hashlib
import numbers
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    Component,
    PassedOver,
    Picture,
    PixelLimit,
    PositiveFloat,
    PositiveInt,
    Refusal,
    Unreadable,
    eight_bit,
    find_image_files,
    image_suffixes,
    opaque,
    printable,
    read_picture,
    subfolders,
)
from lightning_gradood.data.splits import split_rows


@dataclass(frozen=True)
class Listing(ABC):
    """The images found in an opened source, in a fixed order."""

    keys: list[str]  # a name of each, unique and the same on every machine: a relative posix path, a zero-padded row
    labels: list[int]  # a class index of each; -1 where the class is unknown
    classes: list[str]  # their names; empty where the classes have none

    @abstractmethod
    def read(self, row: int) -> Picture:
        """Read the image of one row, before any transform; a Refusal that names it if it cannot be read."""

    def path(self, row: int) -> str:
        """The file of one image; empty where images are no files."""
        return ""

    def part(self, row: int) -> str:
        """The part of its source that an image was named for; empty where splits are drawn."""
        return ""

    @abstractmethod
    def fingerprint(self, row: int) -> bytes:
        """Return bytes that change whenever the image of this row does."""


class Source(Component, ABC):
    """A source of images as it is configured, a frozen dataclass of settings; nothing is read before `open()`."""

    @abstractmethod
    def open(self) -> Listing:
        """List the images, without decoding them where that can be avoided; a Refusal says where none were found."""


def row_keys(count: int) -> list[str]:
    """The row numbers 0 … `count` - 1 as text of equal length, so that sorting keeps their order."""
    width = len(str(max(count - 1, 0)))
    return [f"{row:0{width}d}" for row in range(count)]


def class_name(index: int, classes: Sequence[str]) -> str:
    """Name of a class; its index where classes have no names, nothing where it is unknown (-1)."""
    if index < 0:
        return ""
    return classes[index] if index < len(classes) else str(index)


def class_order(names: Iterable[str]) -> list[str]:
    """Sort names of class folders: by number where they differ in one number alone, else as torchvision's ImageFolder.

    >>> class_order(["10", "2", "1"]), class_order(["b", "a10", "a9"])
    (['1', '2', '10'], ['a10', 'a9', 'b'])
    """
    plain = sorted(names)
    parts = [re.split(r"(\d+)", name) for name in plain]  # what stands before the number, the number, and behind it
    if all(len(one) == 3 and one[::2] == parts[0][::2] for one in parts):
        plain.sort(key=lambda name: int(re.findall(r"\d+", name)[0]))
    return plain


@dataclass(frozen=True)
class FolderSource(Source):
    """Image files below a folder: one sub-folder per class, as torchvision's `ImageFolder` reads them, or no classes.

    Classes are the names of the sub-folders, sorted, by number where they differ in a number alone (`10` behind `9`);
    files may lie at any depth below them. Images in a flat folder, or beside class folders, are of unknown class (-1).
    Every suffix that Pillow or an installed plugin of it reads is an image's; of several frames the first is taken,
    turned upright as EXIF says, and converted to RGB. What else lies there is passed over and counted in one line.

    Args:
        root: The folder, absolute or relative to the working directory; `~` is expanded.
    """

    root: str

    @override
    def open(self) -> "FolderListing":
        root, passed = Path(self.root).expanduser(), PassedOver()
        layouts = "either one sub-folder per class (`root/<class>/image.png`) or the images themselves"
        if not os.path.isdir(root):
            if "\n" in self.root:  # the parser reads a file that is named, and gives its text
                got = f"a file with the text `{self.root.splitlines()[0][:60]}` and so on (a list of images is a ListSource)"
            elif os.path.exists(root):
                got = f"`root = {self.root}`, which is not a folder"
            else:
                got = f"`root = {self.root}`, which does not exist (looked at {root.absolute()})"
            raise Refusal(
                f"`root` should be a folder of images. Got {got}. Correct the path, or put images there: {layouts}."
            )
        folders = class_order(subfolders(str(root), passed))
        by_class = {name: list(find_image_files(str(root / name), passed)) for name in folders}
        loose = list(find_image_files(str(root), passed, deep=False))
        if not loose and not any(by_class.values()):
            raise Refusal(
                f"`root` should hold images ({', '.join(sorted(image_suffixes()))}). Got `root = {self.root}` with none "
                f"(looked at {root.absolute()}). Put images there: {layouts}. {passed.sentence('It')}".rstrip()
            )
        classes = list(by_class) if any(by_class.values()) else []
        pairs = [(file, -1) for file in loose]
        pairs += [(file, label) for label, name in enumerate(classes) for file in by_class[name]]
        names = [os.path.relpath(file, root) for file, _ in pairs]
        notes = [passed.sentence(str(root))]
        if loose and classes:
            example = printable(os.path.basename(loose[0]))
            notes.append(f"{len(loose):,} images beside the class folders, e.g. `{example}`, have no class.")
        if empty := [f"`{printable(name)}`" for name in classes if not by_class[name]]:
            notes.append(f"class folders without images keep their place among the classes: {', '.join(empty)}.")
        return FolderListing(
            keys=[printable(Path(name).as_posix()) for name in names],
            labels=[label for _, label in pairs],
            classes=[printable(name) for name in classes],
            root=root,
            names=names,
            notes=tuple(filter(None, notes)),
        )


_READING = b"EXIF's orientation applied"  # part of each file's fingerprint: another way of reading gives other pixels


@dataclass(frozen=True)
class FolderListing(Listing):
    """Image files below `root`."""

    root: Path
    names: list[str]  # paths below it; `keys` are these as posix paths in which bytes that are no UTF-8 are escaped
    notes: tuple[str, ...]  # what a user should know of it, a line each
    limit: PixelLimit | None = None  # how large an image may be

    @override
    def read(self, row: int) -> Image.Image:
        return read_picture(self.root / self.names[row], limit=self.limit)

    @override
    def path(self, row: int) -> str:
        return printable(str(self.root / self.names[row]))

    @override
    def fingerprint(self, row: int) -> bytes:
        with open(self.root / self.names[row], "rb") as file:
            return hashlib.sha256(_READING + hashlib.file_digest(file, "sha256").digest()).digest()


_ODIN = "Put ODIN's `{0}.tar.gz` there and unpack it beside itself, so that `{0}/{0}/` holds the images"
_BY_HAND = {  # how the files of the data sets in our configs are placed, by class name
    "CIFAR10": "Unpack `cifar-10-python.tar.gz` there, so that `cifar-10-batches-py/data_batch_1` exists below it",
    "CIFAR100": "Unpack `cifar-100-python.tar.gz` there, so that `cifar-100-python/train` exists below it",
    "SVHN": "Put `train_32x32.mat` and `test_32x32.mat` there",
    "TinyImageNetResize": _ODIN.format("Imagenet_resize"),
    "LSUNResize": _ODIN.format("LSUN_resize"),
}


@dataclass(frozen=True)
class DatasetSource(Source):
    """The images of a map-style data set, which is built when the source is opened.

    Items are an image, or a tuple that starts with an image and a class index; an image is a PIL image or a tensor
    [C, H, W] (uint8, or float in [0, 1]). Grey PIL images stay one channel, other modes become RGB; EXIF's orientation
    is the data set's business. A negative class means unknown.

    Args:
        dataset: What builds the data set. In YAML the data set itself by `class_path` and `init_args`.
    """

    dataset: Callable[[], Dataset[Any]]

    @override
    def open(self) -> Listing:
        try:
            dataset: Any = self.dataset()
        except Refusal:
            raise
        except Exception as error:  # each data set has words of its own for what is missing or wrong
            raise self._not_built(error) from error
        classes = [str(name) for name in getattr(dataset, "classes", None) or []]
        listing = DatasetListing(row_keys(len(dataset)), [], classes, dataset)
        listing.labels.extend(_ready_labels(dataset) or [listing.label(row) for row in range(len(dataset))])
        return listing

    def _not_built(self, error: Exception) -> Refusal:
        """Say what keeps a data set from being built: missing files, network or reader, or arguments that are wrong."""
        made, arguments = self.dataset, dict[str, Any]()
        if isinstance(made, functools.partial):  # as jsonargparse hands over a class path
            arguments = made.keywords
            made = next((argument for argument in reversed(made.args) if isinstance(argument, type)), made.func)
        name = getattr(made, "__name__", type(made).__name__)
        root = arguments.get("root")
        place = f"in `{Path(root).expanduser().absolute()}`" if root else "where its arguments say"
        reason = " ".join(str(error).split()).split("You can use download")[0].rstrip(" .")
        fix = _BY_HAND.get(name, "Put its files there")
        if isinstance(error, URLError | ConnectionError | TimeoutError):
            reason = f"the download failed: {reason}"
        elif isinstance(error, ImportError):
            fix = f"Install what it needs: `python -m pip install {error.name or name}`"
        return Refusal(
            f"`dataset` should find its files {place}, and be built with arguments that it takes. Got `dataset = "
            f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})`: {type(error).__name__}: {reason}. "
            f"{fix}; `configs/digits.yaml` needs no download."
        )


GivenSource: TypeAlias = Source | Callable[[], Dataset[Any]] | str
"""A source, what builds a map-style data set (a class path in YAML), or a folder's path."""


def as_source(given: GivenSource) -> Source:
    """The source that a folder's path or a data set stands for."""
    if isinstance(given, str):
        return FolderSource(given)
    return given if isinstance(given, Source) else DatasetSource(given)


@dataclass(frozen=True)
class DatasetListing(Listing):
    """The rows of a map-style data set."""

    dataset: Dataset[Any]

    @override
    def read(self, row: int) -> Any:
        item = self._item(row)
        image = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(image, Image.Image):
            image = eight_bit(image, f"{type(self.dataset).__name__}[{row}]")
            return image if image.mode in ("L", "RGB") else opaque(image, "RGB")
        return image

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
        except Exception as error:  # decoders raise whatever their parsing runs into
            raise Unreadable(
                f"`dataset` should give a readable image for every row. Got `{type(self.dataset).__name__}` "
                f"failing in row {row}: {str(error) or type(error).__name__}."
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


@dataclass(frozen=True)
class PixelListing(Listing):
    """Images held in memory: `pixels` is uint8 [N, H, W, 3]."""

    pixels: NDArray[np.uint8]

    @override
    def read(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])

    @override
    def fingerprint(self, row: int) -> bytes:
        return bytes(self.pixels[row].tobytes())


@dataclass(frozen=True)
class DigitsSource(Source):
    """Handwritten digits: scikit-learn's 1,797 scans of 8×8 pixels, enlarged to 32×32 RGB; keys are their row numbers.

    Args:
        digits: Some of 0 … 9; the label of an image is its digit's place in this list.
        part: Every scan, or the fixed 60 % ("train") or 40 % ("test") of each digit.

    Reference:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    digits: list[int]
    part: Literal["all", "train", "test"] = "all"

    @override
    def open(self) -> Listing:
        from sklearn.datasets import load_digits  # takes a second, and only this source needs it

        found, keys = load_digits(), row_keys(1797)
        train, test = split_rows(found.target, [0.6, 0.4], seed=0)  # leaves 647 unseen images of the digits 0-8
        part = {"all": np.arange(len(keys)), "train": train, "test": test}[self.part]
        rows = part[np.isin(found.target[part], self.digits)]
        grey = np.round(found.images[rows] * (255 / 16)).astype(np.uint8)
        large = [Image.fromarray(scan).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for scan in grey]
        labels = [self.digits.index(digit) for digit in found.target[rows]]
        return PixelListing([keys[row] for row in rows], labels, [str(digit) for digit in self.digits], np.array(large))


@dataclass(frozen=True)
class PhotoPatches(Source):
    """Patches of scikit-learn's two bundled photographs, a temple and a flower, as a class each.

    Patches never overlap, so that no pixel is on two sides of a split; the defaults give 520. Keys are
    `<photograph>/<row>-<column>`.

    Args:
        size: Height and width of a patch in pixels, at most the resized photographs' height.
        scale: The photographs (427×640) are resized by this factor first; smaller gives fewer patches that show more.
    """

    size: PositiveInt = 32
    scale: PositiveFloat = 1.0

    @override
    def open(self) -> Listing:
        from sklearn.datasets import load_sample_image  # takes a second, and only this source needs it

        keys, labels, patches, classes, size = [], [], [], ["china", "flower"], self.size
        for label, name in enumerate(classes):
            photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
            shape = (round(photograph.width * self.scale), round(photograph.height * self.scale))
            pixels = np.asarray(photograph.resize(shape, Image.Resampling.LANCZOS))
            for row, column in np.ndindex(shape[1] // size, shape[0] // size):
                keys.append(f"{name}/{row:03d}-{column:03d}")
                labels.append(label)
                patches.append(pixels[row * size : (row + 1) * size, column * size : (column + 1) * size])
        return PixelListing(keys, labels, classes, np.array(patches))
