"""Noise and blur corruptions: Gaussian, shot and impulse noise; defocus, frosted glass, motion and zoom.

In this room a corruption takes an image [H, W, 3] in [0, 1], the generator of all that is random and its own
parameters, with lengths in pixels, and returns [H, W, 3], not clipped.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

Image = NDArray[np.float64]
"""[H, W, 3] in [0, 1]; a result may lie outside, and is clipped by the caller."""


def gaussian_noise(image: Image, generator: np.random.Generator, deviation: float) -> Image:
    """Add noise of a standard deviation on the scale of [0, 1], as in low light."""
    return image + generator.normal(scale=deviation, size=image.shape)


def shot_noise(image: Image, generator: np.random.Generator, photons: float) -> Image:
    """Count photons: the variance of a pixel is its brightness over `photons`, the mean count at brightness 1."""
    return generator.poisson(image * photons) / photons


def impulse_noise(image: Image, generator: np.random.Generator, share: float) -> Image:
    """Replace an expected share of the values by 0 or 1, each as likely: colour salt and pepper, as from bit errors."""
    hit = generator.random(image.shape) < share
    salt = generator.random(image.shape) < 0.5
    return np.where(hit, salt.astype(np.float64), image)


def zoomed(image: Image, factor: float) -> Image:
    """Enlarge the middle of an image [H, W] or [H, W, C] linearly, by at least 1, to the size of the image.

    The result is the middle of ``scipy.ndimage.zoom(middle, factor, order=1)``.
    """
    channels = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    enlarged = _weights(image.shape[0], factor) @ channels @ _weights(image.shape[1], factor).T
    return enlarged.transpose(1, 2, 0).reshape(image.shape)


@lru_cache(maxsize=64)  # a zoom blur uses up to 26 factors, the same for every image
def _weights(size: int, factor: float) -> Image:
    """The linear map along one side: row r holds the weights of the pixels that make pixel r, [size, size]."""
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    grown = max(size, round(kept * factor))
    places = np.arange(grown) * ((kept - 1) / max(1, grown - 1))
    cut = (grown - size) // 2
    places = places[cut : cut + size]
    below = np.minimum(places.astype(int), max(0, kept - 2))
    weights = np.zeros((size, size))
    rows = np.arange(size)
    weights[rows, first + below] = 1 - (places - below)
    weights[rows, first + np.minimum(below + 1, kept - 1)] += places - below
    return weights


def shuffled(image: Image, generator: np.random.Generator, reach: int) -> Image:
    """Give every pixel, except those near the border, the value of a random neighbour up to `reach` pixels away.

    Images of up to 2 · `reach` pixels a side stay as they are.
    """
    rows, columns = (max(0, size - 2 * reach) for size in image.shape[:2])
    return rearranged(image, generator.integers(-reach, reach, size=(rows, columns, 2)), reach)


def rearranged(image: Image, offsets: NDArray[np.int64], reach: int) -> Image:
    """Visit pixels from the last to the first and overwrite each by the current value of the pixel at its offset.

    The published scripts mean to swap two pixels, but overwrite one, as the published images show. A pixel copies
    either a value that is not overwritten yet or one that is; which one is a chain of references, and all chains are
    followed at once by doubling. `offsets`, [H - 2 · reach, W - 2 · reach, 2], point down and right, in pixels, from
    rows and columns reach + 1 … size - reach.
    """
    height, width = image.shape[:2]
    places = np.arange(height * width).reshape(height, width)
    inner = places[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    asked = inner + offsets[..., 0] * width + offsets[..., 1]
    count = height * width
    # place p is node p once it is overwritten and node count + p before; what comes later in the image is overwritten
    node = np.concatenate([count + places.ravel(), count + places.ravel()])
    node[inner] = np.where(asked > inner, asked, count + asked)
    while not np.array_equal(node, following := node[node]):
        node = following
    arranged: Image = image.reshape(count, -1)[node[:count] - count].reshape(image.shape)
    return arranged


def defocus_kernel(radius: float, alias: float) -> Image:
    """The disc that a point becomes, [2R + 1, 2R + 1], sums to 1; with a radius below 1 it is the centre alone.

    Its edge is softened by a Gaussian of deviation `alias`, which is 3 pixels wide, 5 for a radius above 8.
    """
    margin = 2 if radius > 8 else 1
    offsets = np.arange(-math.floor(radius) - margin, math.floor(radius) + margin + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    softened: Image = gaussian_filter(disc, alias, mode="constant", radius=margin)
    return softened / float(softened.sum())


def defocus_blur(image: Image, generator: np.random.Generator, radius: float, alias: float) -> Image:
    """Convolve with the softened disc of `defocus_kernel`; the image is mirrored at its borders."""
    kernel = defocus_kernel(radius, alias)
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    blurred: Image = fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))
    return blurred


def glass_blur(image: Image, generator: np.random.Generator, deviation: float, reach: float, times: float) -> Image:
    """Blur by a Gaussian, give pixels the value of neighbours up to `reach` away, `times` times, and blur again.

    `reach` and `times` are whole numbers.
    """
    mixed: Image = gaussian_filter(image, deviation, axes=(0, 1), mode="nearest")
    for _ in range(int(times)):
        mixed = shuffled(mixed, generator, int(reach))
    blurred: Image = gaussian_filter(mixed, deviation, axes=(0, 1), mode="nearest")
    return blurred


def streaked(image: Image, radius: float, deviation: float, degrees: float) -> Image:
    """Trail every point of an image [H, W] or [H, W, C] over 2 · `radius` + 1 pixels, fading as half a Gaussian.

    A pixel gathers from the direction `degrees`, 0 is the right, 90 is down; outside, the nearest pixel inside counts.
    As ImageMagick's MotionBlurImage, which made the published images.
    """
    steps = np.arange(2 * int(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    angle = math.radians(degrees)
    down = np.ceil(steps * math.sin(angle) - 0.5).astype(int)
    right = np.ceil(steps * math.cos(angle) - 0.5).astype(int)
    reach = len(steps)
    padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)][: image.ndim], mode="edge")
    height, width = image.shape[:2]
    trail = np.zeros_like(image)
    for weight, row, column in zip(weights / weights.sum(), reach + down, reach + right, strict=True):
        trail += weight * padded[row : row + height, column : column + width]
    return trail


def motion_blur(image: Image, generator: np.random.Generator, radius: float, deviation: float) -> Image:
    """Move the camera quickly to the side, at up to 45 degrees from the horizontal; parameters as in `streaked`."""
    return streaked(image, radius, deviation, generator.uniform(-45, 45))


def zoom_blur(image: Image, generator: np.random.Generator, largest: float, step: float) -> Image:
    """Move the camera quickly forward: the mean of the image and its enlargements.

    Their factors are ``numpy.arange(1, largest, step)``, as published: its rounding decides on the last one.
    """
    factors = np.arange(1, largest, step)
    # the image itself counts once more
    enlarged = sum((zoomed(image, float(factor)) for factor in factors), start=image)
    return enlarged / (len(factors) + 1)
