"""From an image file to a tensor of pixels: decoding, the user's transform, and the range of the result."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.image_files import image_formats, printable

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
