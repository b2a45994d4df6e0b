"""Weather corruptions: snow, fog, and frost, which is drawn instead of taken from photographs."""

import math

import numpy as np

from lightning_gradood.perturbations.noise_and_blur import Image, streaked, zoomed


def plasma(height: int, width: int, generator: np.random.Generator, decay: float) -> Image:
    """Draw a plasma fractal by the diamond-square algorithm on a torus, [height, width] (Fournier et al. 1982).

    From one scale to the next, half as large, displacements shrink by `decay`²: around 1 is grain, 3 is smooth. The
    square it is cut from spans exactly [0, 1].
    """
    side = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    field = np.zeros((1, 1))
    swing = 1.0
    while len(field) < side:
        field = _refined(field, generator, swing)
        swing /= decay**2
    field -= field.min()
    return field[:height, :width] / float(field.max())


def _refined(coarse: Image, generator: np.random.Generator, swing: float) -> Image:
    """Put a point between all neighbours, [n, n] to [2n, 2n]: their mean, displaced by up to ± `swing`."""
    size = len(coarse)
    shifts = generator.uniform(-swing, swing, size=(3, size, size))
    across = coarse + np.roll(coarse, -1, axis=0)
    centres = (across + np.roll(across, -1, axis=1)) / 4 + shifts[0]
    fine = np.empty((2 * size, 2 * size))
    fine[::2, ::2] = coarse
    fine[1::2, 1::2] = centres
    fine[::2, 1::2] = (coarse + np.roll(coarse, -1, axis=1) + centres + np.roll(centres, 1, axis=0)) / 4 + shifts[1]
    fine[1::2, ::2] = (coarse + np.roll(coarse, -1, axis=0) + centres + np.roll(centres, 1, axis=1)) / 4 + shifts[2]
    return fine


# Measured on the photographs of the published scripts: brightness and contrast of the darkest and of the brightest, and
# that they are bluish.
DARKEST, BRIGHTEST = 0.48, 0.81
STRONG, FAINT = 0.17, 0.09
TINT = np.array([-0.06, 0.0, 0.06])


def frost(image: Image, generator: np.random.Generator, kept: float, weight: float, scale: float) -> Image:
    """See the image, with weight `kept`, through ice crystals, with `weight`; the two may sum to more than 1.

    The published images blend in photographs of frost, resized by `scale`; `crystals` draws them instead.
    """
    return kept * image + weight * crystals(image.shape[0], image.shape[1], generator, scale)


def crystals(height: int, width: int, generator: np.random.Generator, scale: float) -> Image:
    """Draw a texture like a photograph of frost, [height, width, 3] in [0, 1]: needles on two plasmas, in cold grey.

    Its mean brightness is drawn between those of the darkest and the brightest photograph; the brighter, the less
    contrast. At a `scale` of 1 needles are up to 20 pixels long; they shrink with it, until only grain is left.
    """
    decay = 1.1 + 0.2 * scale
    ridges = 1 - np.abs(2 * plasma(height, width, generator, decay) - 1)
    clouds = plasma(height, width, generator, 2 * decay)
    found = needles(height, width, generator, scale)
    texture = _standard(_standard(found) + 0.7 * _standard(clouds) + 0.6 * _standard(ridges**2))
    mean = generator.uniform(DARKEST, BRIGHTEST)
    contrast = np.interp(mean, [DARKEST, BRIGHTEST], [STRONG, FAINT])
    grey: Image = mean + contrast * texture
    return np.clip(grey[..., None] * (1 + TINT * generator.uniform(0.5, 1.5)), 0, 1)


def needles(height: int, width: int, generator: np.random.Generator, scale: float) -> Image:
    """Grow needles of ice from random points in five random directions, [height, width], the brighter the nearer."""
    radius = round(10 * scale)
    margin = 2 * radius + 1  # needles grow into the picture from outside
    grown = np.zeros((height, width))
    for angle in generator.uniform(0, 360, size=5):
        dice = generator.random((height + 2 * margin, width + 2 * margin))
        points = np.maximum(0, 1 - dice * scale / 0.02)
        grown = np.maximum(grown, streaked(points, radius, 6 * scale, angle)[margin:-margin, margin:-margin])
    return grown


def _standard(field: Image) -> Image:
    """Mean 0 and standard deviation 1; a field without contrast, such as a single pixel, is 0."""
    centred: Image = field - field.mean()
    return centred / max(float(field.std()), 1e-9)


LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright red, green and blue look


def snow(image: Image, generator: np.random.Generator, *settings: float) -> Image:
    """Let flakes fall, streaked by their speed, over an image that has become paler.

    `settings` are mean and deviation of the normal field that flakes are cut from, its enlargement, the threshold below
    which there is no flake, radius and deviation of the streaks as in `streaked`, and the share that stays unpaled.
    """
    mean, deviation, enlargement, threshold, radius, spread, kept = settings
    field = zoomed(generator.normal(mean, deviation, size=image.shape[:2]), enlargement)
    flakes = np.clip(np.where(field < threshold, 0, field), 0, 1)
    falling = streaked(flakes, radius, spread, generator.uniform(-135, -45))[..., None]
    pale: Image = np.maximum(image, (image @ LUMA)[..., None] * 1.5 + 0.5)
    return kept * image + (1 - kept) * pale + falling + np.rot90(falling, k=2)


def fog(image: Image, generator: np.random.Generator, density: float, decay: float) -> Image:
    """Lay clouds of brightness up to `density` over the image, and scale the sum to the image's brightest pixel."""
    brightest = float(image.max())
    clouds = plasma(image.shape[0], image.shape[1], generator, decay)[..., None]
    return (image + density * clouds) * (brightest / (brightest + density))
