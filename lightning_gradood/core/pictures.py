"""Image files: finding them below a folder, decoding one, and the pixels that a network gets from it."""

import os
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_gradood.core.errors import Refusal, first_line

# EPS starts Ghostscript, a program that executes the file; the others are read by no code of Pillow's own
_NO_PICTURES = frozenset(["EPS", "PDF", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"])
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": "", "pillow_jxl": "", "pillow_jpegxl": ""}
"""Packages that teach Pillow further formats, with the function to call; importing the others is enough."""

_LEFT_BY_SYSTEMS = frozenset(["__macosx", "thumbs.db", "desktop.ini"])
_FOLDER, _IMAGE = "folder", "image"


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, those of installed plugins among them."""
    for package, register in _PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(package)
            if register:
                getattr(plugin, register)()
    Image.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of EXIF and palettes; what cannot be read is refused
    return tuple(sorted(set(Image.OPEN) - _NO_PICTURES))


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of files that are taken from a folder."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def printable(name: str) -> str:
    r"""Write a file's name so that it can be printed and stored: bytes that are no UTF-8 become `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class PassedOver(Counter[str]):
    """Counts of what stood in a folder and was not taken as an image, by its kind.

    >>> PassedOver({".txt": 2, "pipes, sockets or devices": 1}).sentence("photos")
    'photos: passed over 2 .txt, 1 pipes, sockets or devices.'
    """

    def sentence(self, place: str) -> str:
        """Say in one line what was passed over; empty where nothing was."""
        kinds = [f"{number:,} {printable(kind)}" for kind, number in self.most_common(8)]
        return f"{printable(place)}: passed over {', '.join(kinds)}{', …' * (len(self) > 8)}." if self else ""


def subfolders(folder: str, passed: PassedOver) -> list[str]:
    """Names of the folders in a folder, sorted, without those that systems leave behind."""
    return [name for name, kind in _entries(folder, passed) if kind == _FOLDER]


def find_image_files(folder: str, passed: PassedOver, deep: bool = True, seen: set[str] | None = None) -> Iterator[str]:
    """Yield paths of image files in a folder in the order of their names, and count in `passed` what is no image.

    Links are followed, each real folder once (`seen`), so that loops of links end. Counted are files that start with a
    dot or that systems leave behind (`Thumbs.db`, `__MACOSX`), links that lead nowhere, and what is no regular file.
    """
    place, seen = os.path.realpath(folder), set() if seen is None else seen
    if place in seen:
        passed["links to a folder that was read already"] += 1
        return
    seen.add(place)
    for name, kind in _entries(folder, passed):
        path = os.path.join(folder, name)
        if kind == _IMAGE:
            yield path
        elif kind != _FOLDER:
            passed[kind] += 1
        elif deep:
            yield from find_image_files(path, passed, deep, seen)


def _entries(folder: str, passed: PassedOver) -> list[tuple[str, str]]:
    """Names in a folder, sorted, with `_FOLDER`, `_IMAGE` or the kind that is counted."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _kind(entry)) for entry in entries)
    except OSError:
        passed[f"folders that cannot be read (`{folder}`)"] += 1
        return []


def _kind(entry: os.DirEntry[str]) -> str:
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        mode = entry.stat().st_mode
    except OSError:  # the target is missing, or is the link itself
        return "links that lead nowhere"
    if entry.name.startswith("."):
        return "names that start with a dot"
    if entry.name.lower() in _LEFT_BY_SYSTEMS:
        return entry.name
    if stat.S_ISDIR(mode):
        return _FOLDER
    if not stat.S_ISREG(mode):
        return "pipes, sockets or devices"
    return _IMAGE if suffix in image_suffixes() else suffix or "without a suffix"


Picture = Image.Image | Tensor
"""One image as a listing reads it: a PIL image, or a tensor [C, H, W]."""


class Transform(Protocol):
    """Turns a picture into the network's input: a PIL image, or a tensor [C, H, W] of uint8 or of float in [0, 1]."""

    def __call__(self, picture: Any, /) -> Any:
        """Transform one picture."""


MEGAPIXELS = 89.0
"""Largest image that is decoded by default, in megapixels; above it Pillow warns of decompression bombs."""

TRANSPARENT = "was_transparent"
_ORIENTATION = 0x0112  # EXIF's tag
_opening = threading.Lock()  # Pillow's limit belongs to the whole process


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
    is_path = isinstance(file, str | os.PathLike)
    name = name or printable(os.fspath(file) if is_path else str(file))  # type: ignore[arg-type]
    try:
        if is_path and not stat.S_ISREG(os.stat(file).st_mode):  # type: ignore[arg-type]  # it would block or never end
            raise Unreadable(f"`{name}` should be a readable image. Got: it is a folder, pipe, socket or device.")
        with _opening:
            pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the limit below names its flag
            try:
                image = Image.open(file, formats=image_formats())
            finally:
                Image.MAX_IMAGE_PIXELS = pillows
        with image:
            (limit or PixelLimit()).check(image, name)
            image.load()
            return opaque(upright(eight_bit(image, name)), mode)
    except Refusal:
        raise
    except FileNotFoundError as error:
        raise Unreadable(f"`{name}` should be an image file. Got none of that name.") from error
    except UnidentifiedImageError as error:
        raise Unreadable(f"`{name}` should be a readable image. Got: it is no image.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into
        said = " ".join((getattr(error, "strerror", None) or str(error)).split()).rstrip(".")
        reason = (
            said if said and isinstance(error, OSError | SyntaxError | ValueError) else f"{type(error).__name__} {said}"
        )
        raise Unreadable(f"`{name}` should be a readable image. Got: {reason}.") from error


def opaque(image: Image.Image, mode: str) -> Image.Image:
    """Convert to a mode without transparency, as torchvision does: colours stay; `info[TRANSPARENT]` says if any was lost."""
    made = image.convert(mode)
    made.info[TRANSPARENT] = "A" in image.getbands() or "transparency" in image.info
    return made


def upright(image: Image.Image) -> Image.Image:
    """Turn and mirror a picture as its EXIF orientation says, and remove that tag; ignore damaged EXIF."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # Pillow may raise anything here; the pixels are whole and have been read
        return image


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
        raise Refusal(
            f"`transform` should take every image. Got {type(error).__name__}: {first_line(error)}, for image `{name}`. "
            "Correct its settings; or, if others pass, remove that image."
        ) from error
    if isinstance(result, Image.Image):
        values = torch.from_numpy(np.array(result))  # as torchvision does, which takes as long to import as torch
        result = values.view(result.height, result.width, -1).permute(2, 0, 1).contiguous()
    is_image = isinstance(result, Tensor) and result.ndim == 3
    if not is_image or not (result.dtype == torch.uint8 or result.is_floating_point()):
        shown = f"{result.dtype} {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise Refusal(
            "`transform` should give a PIL image or a tensor [C, H, W] of uint8 or float. "
            f"Got {shown} for image `{name}`. End it with e.g. torchvision.transforms.ToTensor."
        )
    pixels: Tensor = result.as_subclass(Tensor)  # not torchvision's tv_tensors.Image
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
