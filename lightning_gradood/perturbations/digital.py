"""Digital corruptions: brightness, contrast, pixelation, JPEG compression, elastic deformation."""

from io import BytesIO

import numpy as np
from PIL import Image as PillowImage
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

from lightning_gradood.perturbations.noise_and_blur import Image


def brightness(image: Image, generator: np.random.Generator, gain: float) -> Image:
    """Add `gain` to the value of hue, saturation and value, up to 1; black becomes grey.

    The value is the largest of red, green and blue; hue and saturation stay, so the three keep their proportions.
    """
    value: Image = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + gain, 1)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1)), raised)


def contrast(image: Image, generator: np.random.Generator, kept: float) -> Image:
    """Bring every pixel nearer to the mean of its channel; the fraction `kept` of each difference is left."""
    means: Image = image.mean(axis=(0, 1), keepdims=True)
    return means + kept * (image - means)


def pixelate(image: Image, generator: np.random.Generator, kept: float) -> Image:
    """Scale down to the fraction `kept` of rows and columns and up again, by boxes."""
    picture = _picture(image)
    small = (max(1, int(picture.width * kept)), max(1, int(picture.height * kept)))
    box = PillowImage.Resampling.BOX
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
    stretched = [
        map_coordinates(
            affine_transform(channel, matrix, offset, order=1, mode="mirror"), places, order=1, mode="reflect"
        )
        for channel in np.moveaxis(image, 2, 0)
    ]
    return np.stack(stretched, axis=2)


def _affine(image: Image, moves: Image) -> tuple[Image, Image]:
    """From where each pixel takes its value when three corners around the centre move by `moves`, [3, 2]."""
    centre = np.array(image.shape[:2]) // 2
    reach = max(1, min(image.shape[:2]) // 3)
    corners = centre + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = np.column_stack([corners + moves, np.ones(3)])
    found = np.linalg.lstsq(moved, corners)[0]  # unlike solve, gives a map also where the moved corners are in line
    return found[:2].T, found[2]
