"""What cameras, screens and files do: brightness, contrast, big pixels, JPEG."""

from io import BytesIO

import numpy as np
from PIL import Image as PillowImage

from lightning_gradood.corruptions.noise import Image


def brightness(image: Image, generator: np.random.Generator, gain: float) -> Image:
    """Raise the value of hue, saturation and value, the largest of red, green and blue.

    Hue and saturation stay, which means that the three keep their proportions; black becomes grey.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Not used.
        gain: Added to the value, which ends at 1.

    Returns:
        [H, W, 3] in [0, 1].
    """
    value: Image = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + gain, 1)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1)), raised)


def contrast(image: Image, generator: np.random.Generator, kept: float) -> Image:
    """Bring every pixel nearer to the mean of its channel.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Not used.
        kept: The fraction of each difference that is left.

    Returns:
        [H, W, 3] in [0, 1].
    """
    means: Image = image.mean(axis=(0, 1), keepdims=True)
    return means + kept * (image - means)


def pixelate(image: Image, generator: np.random.Generator, kept: float) -> Image:
    """Scale down to fewer pixels and up again, by boxes.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Not used.
        kept: The fraction of rows and of columns that is left in between.

    Returns:
        [H, W, 3] in [0, 1].
    """
    picture = _picture(image)
    small = (max(1, int(picture.width * kept)), max(1, int(picture.height * kept)))
    box = PillowImage.Resampling.BOX
    return np.asarray(picture.resize(small, box).resize(picture.size, box)) / 255


def jpeg_compression(image: Image, generator: np.random.Generator, quality: float) -> Image:
    """Write a JPEG and read it again.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Not used.
        quality: As JPEG counts it, 1 … 95; a whole number.

    Returns:
        [H, W, 3] in [0, 1].
    """
    written = BytesIO()
    _picture(image).save(written, "JPEG", quality=int(quality))
    with PillowImage.open(written) as read:
        return np.asarray(read) / 255


def _picture(image: Image) -> PillowImage.Image:
    return PillowImage.fromarray(np.rint(image * 255).astype(np.uint8))
