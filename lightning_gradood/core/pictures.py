"""Image files: finding them below a folder, decoding one, and the pixels that a network gets from it."""

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, BinaryIO, Literal, Protocol

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_gradood.core.errors import Refusal

# EPS starts Ghostscript, a program that executes the file; the others are read by no code of Pillow's own
_NO_PICTURES = frozenset(["EPS", "PDF", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"])
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": "", "pillow_jxl": "", "pillow_jpegxl": ""}
"""Packages that teach Pillow further formats, with the function to call; importing the others is enough."""

_NEED_PLUGIN = {
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".avif": "pillow-avif-plugin",
    ".jxl": "pillow-jxl-plugin",
}
_LEFT_BY_SYSTEMS = frozenset(["__macosx", "thumbs.db", "desktop.ini"])
_SHOWN = 8


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, those of installed plugins among them."""
    for package, register in _PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(package)
            if register:
                getattr(plugin, register)()
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NO_PICTURES))


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of files that are taken from a folder."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def printable(name: str) -> str:
    r"""Write a file's name so that it can be printed and stored: bytes that are no UTF-8 become `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class PassedOver:
    """Counts of what stood in a folder and was not taken as an image.

    >>> passed = PassedOver()
    >>> passed.add("notes.TXT"), passed.add("notes"), passed.add("x.txt")
    (None, None, None)
    >>> passed.sentence("photos")
    'photos: passed over 2 .txt, 1 without a suffix.'
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file by its suffix."""
        suffix = os.path.splitext(name)[1].lower()
        self.count(printable(suffix) if suffix else "without a suffix")

    def count(self, kind: str) -> None:
        """Count something of a kind that is no suffix."""
        self.counts[kind] += 1

    def sentence(self, place: str) -> str:
        """Say in one line what was passed over; empty where nothing was."""
        if not self.counts:
            return ""
        kinds = self.counts.most_common()
        shown = [f"{number:,} {kind}{_hint(kind)}" for kind, number in kinds[:_SHOWN]]
        others = sum(number for _, number in kinds[_SHOWN:])
        return f"{printable(place)}: passed over {', '.join(shown)}{f' and {others:,} others' if others else ''}."


def _hint(kind: str) -> str:
    return f" (read where {_NEED_PLUGIN[kind]} is installed)" if kind in _NEED_PLUGIN else ""


def find_image_files(folder: str, passed: PassedOver, deep: bool = True) -> Iterator[str]:
    """Yield paths of image files in a folder in the order of their names, and count in `passed` what is no image.

    Links are followed, each real folder once, so that loops of links end. Counted are files that start with a dot or
    that systems leave behind (`Thumbs.db`, `__MACOSX`), links that lead nowhere, and what is no regular file.
    """
    yield from _found(folder, passed, deep, set())


def subfolders(folder: str, passed: PassedOver) -> list[str]:
    """Names of the folders in a folder, sorted, without those that are passed over; these are counted."""
    names = [name for name, kind in _entries(folder, passed) if kind == _FOLDER]
    found = [name for name in names if not _is_left_over(name)]
    passed.counts.update(_left_over_kind(name) for name in names if _is_left_over(name))
    return found


_FOLDER, _FILE = "folder", "file"


def _found(folder: str, passed: PassedOver, deep: bool, seen: set[tuple[int, int]]) -> Iterator[str]:
    with suppress(OSError):  # `_entries` reports it
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in seen:
            passed.count("links to a folder that was read already")
            return
        seen.add((about.st_dev, about.st_ino))
    for name, kind in _entries(folder, passed):
        path = os.path.join(folder, name)
        if kind == _FOLDER and not deep:
            continue
        if _is_left_over(name):
            passed.count(_left_over_kind(name))
        elif kind == _FOLDER:
            yield from _found(path, passed, deep, seen)
        elif kind != _FILE:
            passed.count(kind)
        elif os.path.splitext(name)[1].lower() in image_suffixes():
            yield path
        else:
            passed.add(name)


def _entries(folder: str, passed: PassedOver) -> list[tuple[str, str]]:
    """Names in a folder, sorted, with `_FOLDER`, `_FILE` or another kind."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _kind(entry)) for entry in entries)
    except OSError:
        passed.count(f"folders that cannot be read (`{printable(folder)}`)")
        return []


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        mode = entry.stat().st_mode
    except OSError:  # the target is missing, or is the link itself
        return "links that lead nowhere"
    if stat.S_ISDIR(mode):
        return _FOLDER
    return _FILE if stat.S_ISREG(mode) else "pipes, sockets or devices"


def _is_left_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def _left_over_kind(name: str) -> str:
    return "names that start with a dot" if name.startswith(".") else name


Picture = Image.Image | Tensor
"""One image as a listing reads it: a PIL image, or a tensor [C, H, W]."""


class Transform(Protocol):
    """Turns a picture into the network's input: a PIL image, or a tensor [C, H, W] of uint8 or of float in [0, 1]."""

    def __call__(self, picture: Any, /) -> Any:
        """Transform one picture."""


MEGAPIXELS = 89.0
"""Largest image that is decoded by default, in megapixels; above it Pillow warns of decompression bombs."""

_ORIENTATION = 0x0112  # EXIF's tag


class Unreadable(Refusal):
    """A file is missing, no image, or damaged."""


@dataclass(frozen=True)
class PixelLimit:
    """The largest number of megapixels that is decoded; `flag` is what the user raises it with."""

    megapixels: float = MEGAPIXELS
    flag: str = "--max_megapixels"

    def check(self, image: Image.Image, name: str) -> None:
        """Refuse a larger image."""
        if image.width * image.height > self.megapixels * 1e6:
            raise Refusal(
                f"`{name}` should have at most {self.megapixels:g} megapixels. Got {image.width} × {image.height}, "
                f"{image.width * image.height / 1e6:.3g} megapixels, larger than this limit. Scale it down, or raise {self.flag}."
            )


def read_picture(
    file: str | os.PathLike[str] | BinaryIO,
    mode: Literal["RGB", "L"] = "RGB",
    limit: PixelLimit | None = None,
    name: str | None = None,
) -> Image.Image:
    """Decode the first frame of an image file and turn it upright, as EXIF's orientation says.

    The size is checked before decoding. Raises `Unreadable` for a missing, damaged or other file, `Refusal` for more
    than eight bits a channel or too many pixels; `name` is for messages, by default the path.
    """
    name = printable(os.fspath(file) if isinstance(file, str | os.PathLike) else str(file)) if name is None else name
    try:
        _check_regular(file, name)
        with _limit_of_pillow_lifted():
            image = Image.open(file, formats=image_formats())
        with image:
            (limit or PixelLimit()).check(image, name)
            image.load()
            return upright(eight_bit(image, name)).convert(mode)
    except Refusal:
        raise
    except FileNotFoundError as error:
        raise Unreadable(f"`{name}` should be an image file. Got none of that name.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into
        raise Unreadable(f"`{name}` should be a readable image. Got: {_reason(error)}.") from error


def upright(image: Image.Image) -> Image.Image:
    """Turn and mirror a picture as its EXIF orientation says, and remove that tag; ignore damaged EXIF."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # Pillow may raise anything here; the pixels are whole and have been read
        return image


def _check_regular(file: str | os.PathLike[str] | BinaryIO, name: str) -> None:
    """Refuse pipes and devices, which would block or never end."""
    if isinstance(file, str | os.PathLike) and not stat.S_ISREG(os.stat(file).st_mode):
        what = "a folder" if os.path.isdir(file) else "a pipe, socket or device"
        raise Unreadable(f"`{name}` should be a readable image. Got: it is {what}.")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "an image inside it is larger than Pillow's limit"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split()).rstrip(".")
    return (
        text
        if isinstance(error, OSError | SyntaxError | ValueError) and text
        else f"{type(error).__name__} {text}".strip()
    )


_opening = [0, Image.MAX_IMAGE_PIXELS]  # how many threads open files, and Pillow's limit before the first of them
_lock = threading.Lock()


@contextmanager
def _limit_of_pillow_lifted() -> Iterator[None]:
    """Let Pillow open an image of any size; `PixelLimit` is checked before decoding, and its message names the flag."""
    with _lock:
        if _opening[0] == 0:
            _opening[1], Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _opening[0] = (_opening[0] or 0) + 1
    try:
        yield
    finally:
        with _lock:
            _opening[0] = (_opening[0] or 0) - 1
            if _opening[0] == 0:
                Image.MAX_IMAGE_PIXELS = _opening[1]


def as_float(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1]; return float ones as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def to_pixels(image: Picture, transform: Transform | None, name: str) -> Tensor:
    """Apply the transform and return a tensor [C, H, W], uint8 or float32 in [0, 1]; a PIL result becomes uint8.

    Refuses a transform that raises an error or gives something else, with the image's id, `name`.
    """
    try:
        result = image if transform is None else transform(image)
    except Refusal:
        raise
    except Exception as error:  # a transform may raise anything
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise Refusal(
            f"`transform` should take every image. Got {type(error).__name__}: {reason}, for image `{name}`. "
            "Correct its settings; or, if others pass, remove that image."
        ) from error
    if isinstance(result, Image.Image):
        pixels: Tensor = pil_to_tensor(result)
        return pixels
    if (
        not isinstance(result, Tensor)
        or result.ndim != 3
        or not (result.dtype == torch.uint8 or result.is_floating_point())
    ):
        shown = f"{result.dtype} {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise Refusal(
            "`transform` should give a PIL image or a tensor [C, H, W] of uint8 or float. "
            f"Got {shown} for image `{name}`. End it with e.g. torchvision.transforms.ToTensor."
        )
    pixels = result.as_subclass(Tensor)  # not torchvision's tv_tensors.Image
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = pixels.min().item(), pixels.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN is refused as well
        raise Refusal(
            f"`transform` should give float pixels in [0, 1]. Got {low:.4g} to {high:.4g} for image `{name}`. "
            "Leave normalisation to the network, which wraps its own mean and standard deviation."
        )
    return pixels.float()


def eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Return the image; refuse more than eight bits a channel, which Pillow would clip to white without a warning."""
    if image.mode[0] in "IF":
        raise Refusal(
            f"`{name}` should be an image with 8 bits a channel. "
            f"Got `{name}` of Pillow's mode {image.mode}, which has more. Scale it to 0 … 255 and save it anew."
        )
    return image
