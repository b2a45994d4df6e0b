"""From an image file to a tensor of pixels: decoding, the user's transform, and the range of the result."""

import os
from typing import Any, BinaryIO, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_gradood.core.errors import Refusal

Picture = Image.Image | Tensor
"""One image as a listing reads it: a PIL image, or a tensor [C, H, W]."""


class Transform(Protocol):
    """Makes of a picture what the network gets: a PIL image, or a tensor [C, H, W] of uint8 or of float in [0, 1]."""

    def __call__(self, picture: Any, /) -> Any:
        """Transform one picture."""


UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow's decoders raise for files that are empty, cut short, of another kind, or too large to be true."""


def read_picture(
    file: str | os.PathLike[str] | BinaryIO,
    mode: Literal["RGB", "L"] = "RGB",
    max_pixels: int | None = None,
    name: str | None = None,
) -> Image.Image:
    """Decode the first frame of an image file, as it is stored: EXIF's orientation is not applied.

    Args:
        file: its path, or an open binary file.
        mode: `RGB`, or `L` for one channel of grey.
        max_pixels: refuse larger images before they are decoded; None leaves that to Pillow.
        name: for messages; by default the path.

    Raises:
        Refusal: it has more than eight bits a channel, or too many pixels.
        OSError, SyntaxError, ValueError: it is no image, or damaged; see `UNREADABLE`.
    """
    name = str(file) if name is None else name
    with Image.open(file) as image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise Refusal(
                f"`{name}` should have at most {max_pixels / 1e6:g} megapixels. Got {image.width} × {image.height}, "
                f"{image.width * image.height / 1e6:.0f} megapixels. Scale it down, or raise --max_megapixels."
            )
        image.load()
    return eight_bit(image, name).convert(mode)


def as_float(images: Tensor) -> Tensor:
    """Bring uint8 images to float32 in [0, 1]; float ones, which are there already, stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


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
