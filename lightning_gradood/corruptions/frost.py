"""Frost on a window pane, drawn instead of photographed."""

import numpy as np

from lightning_gradood.corruptions.blur import streaked
from lightning_gradood.corruptions.noise import Image
from lightning_gradood.corruptions.plasma import plasma

# Measured on the photographs of the published scripts: brightness and contrast of the darkest and of the brightest, and
# that they are bluish.
DARKEST, BRIGHTEST = 0.48, 0.81
STRONG, FAINT = 0.17, 0.09
TINT = np.array([-0.06, 0.0, 0.06])


def frost(image: Image, generator: np.random.Generator, kept: float, weight: float, scale: float) -> Image:
    """See the image through ice crystals on a window pane.

    The published images blend in photographs of frost, which are not ours to ship; `crystals` stands in for them.

    Args:
        image: [H, W, 3] in [0, 1].
        generator: Draws the crystals.
        kept: Weight of the image.
        weight: Weight of the frost; the two may sum to more than 1.
        scale: By which the photographs were resized before a part was cut out.

    Returns:
        [H, W, 3], not clipped.
    """
    return kept * image + weight * crystals(image.shape[0], image.shape[1], generator, scale)


def crystals(height: int, width: int, generator: np.random.Generator, scale: float) -> Image:
    """Draw a texture like a photograph of frost: needles on the ridges and clouds of two plasmas, in cold grey.

    Its mean brightness is drawn between those of the darkest and the brightest photograph; the brighter ones have less
    contrast, and so has this.

    Args:
        height: In pixels.
        width: In pixels.
        generator: Draws everything.
        scale: 1 shows needles of up to 20 pixels; they shrink with it, until only grain is left.

    Returns:
        [height, width, 3] in [0, 1].
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
