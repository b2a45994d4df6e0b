"""From one image as read to the tensor a network gets: the user's transform, and what its result must be."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_gradood.data.source import Picture
from lightning_gradood.errors import Refusal

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
