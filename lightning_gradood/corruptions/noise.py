"""Noise corruptions: Gaussian, shot and impulse noise of each pixel."""

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
"""[H, W, 3] in [0, 1]; a result may lie outside, and is clipped by the caller."""


def gaussian_noise(image: Image, generator: np.random.Generator, deviation: float) -> Image:
    """Add noise of one standard deviation, as in low light.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Draws one number for each pixel and channel.
        deviation: Standard deviation on the scale of [0, 1].

    Returns:
        [H, W, 3], not clipped.
    """
    return image + generator.normal(scale=deviation, size=image.shape)


def shot_noise(image: Image, generator: np.random.Generator, photons: float) -> Image:
    """Count photons: the variance of a pixel is its brightness over `photons`.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Draws one count for each pixel and channel.
        photons: Mean count of a pixel of brightness 1.

    Returns:
        [H, W, 3], not clipped.
    """
    return generator.poisson(image * photons) / photons


def impulse_noise(image: Image, generator: np.random.Generator, share: float) -> Image:
    """Replace a share of the values by 0 or 1, each as likely: colour salt and pepper, as from bit errors.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Draws two numbers for each pixel and channel.
        share: Expected fraction of values that are replaced.

    Returns:
        [H, W, 3].
    """
    hit = generator.random(image.shape) < share
    salt = generator.random(image.shape) < 0.5
    return np.where(hit, salt.astype(np.float64), image)
