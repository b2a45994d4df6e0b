"""Weather between the camera and what it sees: snow and fog."""

import numpy as np

from lightning_gradood.corruptions.blur import streaked
from lightning_gradood.corruptions.noise import Image
from lightning_gradood.corruptions.plasma import plasma
from lightning_gradood.corruptions.zooming import zoomed

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright red, green and blue look


def snow(image: Image, generator: np.random.Generator, *settings: float) -> Image:
    """Let flakes fall, streaked by their speed, over an image that has become paler.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Draws the flakes and the direction they fall in.
        settings: Mean and standard deviation of the normal field that flakes are cut from, its enlargement, the threshold
            below which there is no flake, radius and deviation of the streaks as in `streaked`, and the share of the
            image that is not made paler.

    Returns:
        [H, W, 3], not clipped.
    """
    mean, deviation, enlargement, threshold, radius, spread, kept = settings
    field = zoomed(generator.normal(mean, deviation, size=image.shape[:2]), enlargement)
    flakes = np.clip(np.where(field < threshold, 0, field), 0, 1)
    falling = streaked(flakes, radius, spread, generator.uniform(-135, -45))[..., None]
    pale: Image = np.maximum(image, (image @ LUMA)[..., None] * 1.5 + 0.5)
    return kept * image + (1 - kept) * pale + falling + np.rot90(falling, k=2)


def fog(image: Image, generator: np.random.Generator, density: float, decay: float) -> Image:
    """Lay clouds over the image, and scale the sum to the brightest pixel that the image had.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Draws the clouds.
        density: Brightness of the thickest cloud.
        decay: As in `plasma`.

    Returns:
        [H, W, 3] in [0, 1].
    """
    brightest = float(image.max())
    clouds = plasma(image.shape[0], image.shape[1], generator, decay)[..., None]
    return (image + density * clouds) * (brightest / (brightest + density))
