"""The fifteen kinds of corruption: noise, blur, weather (frost is drawn, not taken from photographs) and digital ones.

A corruption takes an image [H, W, 3] in [0, 1], the generator of all that is random and its own parameters, with
lengths in pixels, and returns [H, W, 3], not clipped.
"""

import math
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

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
    hit, salt = generator.random(image.shape) < share, generator.random(image.shape) < 0.5
    return np.where(hit, salt.astype(np.float64), image)


def zoomed(image: Image, factor: float) -> Image:
    """Enlarge the middle of an image [H, W] or [H, W, C] linearly, as `scipy.ndimage.zoom`, to the size of the image."""
    channels = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    enlarged = _weights(image.shape[0], factor) @ channels @ _weights(image.shape[1], factor).T
    return enlarged.transpose(1, 2, 0).reshape(image.shape)


@lru_cache(maxsize=64)  # a zoom blur uses up to 26 factors, the same for every image
def _weights(size: int, factor: float) -> Image:
    """The linear map along one side: row r holds the weights of the pixels that make pixel r, [size, size]."""
    kept = math.ceil(size / factor)
    grown = max(size, round(kept * factor))
    first, cut = (size - kept) // 2, (grown - size) // 2
    places = (np.arange(grown) * ((kept - 1) / max(1, grown - 1)))[cut : cut + size]
    below = np.minimum(places.astype(int), max(0, kept - 2))
    weights, rows = np.zeros((size, size)), np.arange(size)
    weights[rows, first + below] = 1 - (places - below)
    weights[rows, first + np.minimum(below + 1, kept - 1)] += places - below
    return weights


def shuffled(image: Image, generator: np.random.Generator, reach: int) -> Image:
    """Give every pixel, except those near the border, the value of a random neighbour up to `reach` pixels away."""
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
    return np.asarray(image.reshape(count, -1)[node[:count] - count].reshape(image.shape))


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
    from scipy.signal import fftconvolve  # slow to import, which whoever corrupts nothing does without

    kernel = defocus_kernel(radius, alias)
    reach = (len(kernel) // 2,) * 2
    padded = np.pad(image, (reach, reach, (0, 0)), mode="reflect")
    return np.asarray(fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def glass_blur(image: Image, generator: np.random.Generator, deviation: float, reach: float, times: float) -> Image:
    """Blur by a Gaussian, give pixels the value of neighbours up to `reach` away, `times` times, and blur again."""
    mixed: Image = gaussian_filter(image, deviation, axes=(0, 1), mode="nearest")
    for _ in range(int(times)):
        mixed = shuffled(mixed, generator, int(reach))
    return np.asarray(gaussian_filter(mixed, deviation, axes=(0, 1), mode="nearest"))


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
    """Move the camera quickly forward: the mean of the image and its enlargements."""
    factors = np.arange(1, largest, step)  # as published: its rounding decides on the last one
    # the image itself counts once more
    enlarged = sum((zoomed(image, float(factor)) for factor in factors), start=image)
    return enlarged / (len(factors) + 1)


def plasma(height: int, width: int, generator: np.random.Generator, decay: float) -> Image:
    """Draw a plasma fractal by the diamond-square algorithm on a torus, [height, width] (Fournier et al. 1982).

    From one scale to the next, half as large, displacements shrink by `decay`²: around 1 is grain, 3 is smooth.
    """
    side = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    field, swing = np.zeros((1, 1)), 1.0
    while len(field) < side:
        field = _refined(field, generator, swing)
        swing /= decay**2
    field -= field.min()
    return field[:height, :width] / float(field.max())


def _refined(coarse: Image, generator: np.random.Generator, swing: float) -> Image:
    """Put a point between all neighbours, [n, n] to [2n, 2n]: their mean, displaced by up to ± `swing`."""
    shifts = generator.uniform(-swing, swing, size=(3, *coarse.shape))
    across = coarse + np.roll(coarse, -1, axis=0)
    centres = (across + np.roll(across, -1, axis=1)) / 4 + shifts[0]
    fine = np.empty((2 * len(coarse), 2 * len(coarse)))
    fine[::2, ::2] = coarse
    fine[1::2, 1::2] = centres
    fine[::2, 1::2] = (coarse + np.roll(coarse, -1, axis=1) + centres + np.roll(centres, 1, axis=0)) / 4 + shifts[1]
    fine[1::2, ::2] = (coarse + np.roll(coarse, -1, axis=0) + centres + np.roll(centres, 1, axis=1)) / 4 + shifts[2]
    return fine


# Measured on the photographs of the published scripts: brightness and contrast of the darkest and of the brightest, and
# that they are bluish.
DARKEST, BRIGHTEST, STRONG, FAINT = 0.48, 0.81, 0.17, 0.09
TINT = np.array([-0.06, 0.0, 0.06])


def frost(image: Image, generator: np.random.Generator, kept: float, weight: float, scale: float) -> Image:
    """See the image, with weight `kept`, through ice crystals, with `weight`; the two may sum to more than 1.

    The published images blend in photographs of frost, resized by `scale`; `crystals` draws them instead.
    """
    return kept * image + weight * crystals(image.shape[0], image.shape[1], generator, scale)


def crystals(height: int, width: int, generator: np.random.Generator, scale: float) -> Image:
    """Draw a texture like a photograph of frost, [height, width, 3] in [0, 1]: needles on two plasmas, in cold grey.

    The brighter, the less contrast. At a `scale` of 1 needles are up to 20 pixels long, and shrink with it.
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


def brightness(image: Image, generator: np.random.Generator, gain: float) -> Image:
    """Add `gain` to the value of hue, saturation and value, the largest of the three colours, up to 1."""
    value: Image = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + gain, 1)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1)), raised)


def contrast(image: Image, generator: np.random.Generator, kept: float) -> Image:
    """Bring every pixel nearer to the mean of its channel; the fraction `kept` of each difference is left."""
    means: Image = image.mean(axis=(0, 1), keepdims=True)
    return means + kept * (image - means)


def pixelate(image: Image, generator: np.random.Generator, kept: float) -> Image:
    """Scale down to the fraction `kept` of rows and columns and up again, by boxes."""
    picture, box = _picture(image), PillowImage.Resampling.BOX
    small = (max(1, int(picture.width * kept)), max(1, int(picture.height * kept)))
    return np.asarray(picture.resize(small, box).resize(picture.size, box)) / 255


def jpeg_compression(image: Image, generator: np.random.Generator, quality: float) -> Image:
    """Write a JPEG of a quality of 1 … 95, a whole number, and read it again."""
    written = BytesIO()
    _picture(image).save(written, "JPEG", quality=int(quality))
    with PillowImage.open(written) as read:
        return np.asarray(read) / 255


def _picture(image: Image) -> PillowImage.Image:
    return PillowImage.fromarray(np.rint(image * 255).astype(np.uint8))


def elastic_transform(image: Image, generator: np.random.Generator, pull: float, smooth: float, corner: float) -> Image:
    """Stretch the image as if it were printed on rubber; lengths are shares of the shorter side.

    Displacements are uniform between ± `pull`, smoothed by a Gaussian of deviation `smooth` (Simard et al., ICDAR
    2003); before them, as in the published scripts, an affine map moves each of three corners by up to ± `corner`.
    """
    side = min(image.shape[:2])
    matrix, offset = _affine(image, generator.uniform(-corner * side, corner * side, size=(3, 2)))
    noise = generator.uniform(-1, 1, size=(2, *image.shape[:2]))
    shifts = pull * side * gaussian_filter(noise, smooth * side, axes=(1, 2), mode="reflect", truncate=3)
    places = np.indices(image.shape[:2]) + shifts
    moved = [affine_transform(one, matrix, offset, order=1, mode="mirror") for one in np.moveaxis(image, 2, 0)]
    return np.stack([map_coordinates(one, places, order=1, mode="reflect") for one in moved], axis=2)


def _affine(image: Image, moves: Image) -> tuple[Image, Image]:
    """From where each pixel takes its value when three corners around the centre move by `moves`, [3, 2]."""
    centre = np.array(image.shape[:2]) // 2
    reach = max(1, min(image.shape[:2]) // 3)
    corners = centre + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = np.column_stack([corners + moves, np.ones(3)])
    found = np.linalg.lstsq(moved, corners)[0]  # unlike solve, gives a map also where the moved corners are in line
    return found[:2].T, found[2]
