"""Sources of images: what a user configures, what opening it gives, and the batches a loader yields.

A `Source` is what a user writes in YAML; it touches no disk before `open()`. A `Listing` is what was found there. `to_pixels`
applies the user's transform to one image and checks its result.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_gradood.core import Refusal


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


def as_float(images: Tensor) -> Tensor:
    """Bring uint8 images to float32 in [0, 1]; float ones, which are there already, stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_it_is(batch: Any) -> Any:
    """Collate nothing: our data sets hand over whole batches. A function of its own so that workers can unpickle it."""
    return batch


Picture = Image.Image | Tensor
"""One image as a listing reads it: a PIL image, or a tensor [C, H, W]."""


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
        """Read the image of one row, before any transform.

        Raises:
            Refusal: The image cannot be read; the message names it.
        """

    @abstractmethod
    def fingerprint(self, row: int) -> bytes:
        """Return bytes that change whenever the image of this row does."""


class Source(ABC):
    """A source of images as it is configured; nothing is read before `open()`."""

    @abstractmethod
    def open(self) -> Listing:
        """List the images, without decoding them where that can be avoided.

        Raises:
            Refusal: There is nothing to list; the message says what was looked for, where, and how to mend it.
        """


def row_keys(count: int) -> list[str]:
    """Return the row numbers 0 … `count` - 1 as text of equal length, so that sorting keeps their order."""
    width = len(str(max(count - 1, 0)))
    return [f"{row:0{width}d}" for row in range(count)]


Transform = Callable[[Any], Any]
TRIES = 8  # a flip that happens half the time is missed once in 128


def to_pixels(image: Picture, transform: Transform | None, name: str) -> Tensor:
    """Apply the transform and bring the result to a tensor.

    Args:
        image: A PIL image, or a tensor [C, H, W].
        transform: Called with the image; None leaves it as it is. A PIL result becomes uint8.
        name: The image's id, for refusals.

    Returns:
        [C, H, W], uint8 or float32 in [0, 1].

    Raises:
        Refusal: The transform gives something else.
    """
    result = image if transform is None else transform(image)
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
    pixels = result.as_subclass(Tensor)  # torchvision's tv_tensors.Image is not wanted further on
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
    """Return an image of at most eight bits a channel; Pillow would clip deeper ones to white without a word.

    Raises:
        Refusal: Its pixels are integers or floats of more bits.
    """
    if image.mode[0] in "IF":
        raise Refusal(
            f"`{name}` should be an image with 8 bits a channel. "
            f"Got `{name}` of Pillow's mode {image.mode}, which has more. Scale it to 0 … 255 and save it anew."
        )
    return image


def check_deterministic(read: Callable[[], Tensor], transform: Transform | None) -> None:
    """Refuse a transform that gives one image several ways.

    Args:
        read: Reads and transforms one image.
        transform: The transform, to be named.

    Raises:
        Refusal: Two of several tries differ.
    """
    first = read()
    if transform is not None and any(not torch.equal(first, read()) for _ in range(TRIES - 1)):
        raise Refusal(
            "`transform` should be deterministic: it is applied once, and its result is kept. "
            f"Got `transform = {transform!r}`, which gave one image in different ways. "
            "Leave random changes to `augment`, which is applied to training batches anew each time."
        )
