"""Blur equals slow loops, direct convolutions and scipy's zoom, and keeps the light it is given."""

import math

import numpy as np
import pytest
from photo_patches import as_image, patches
from scipy.ndimage import correlate, gaussian_filter, zoom

from lightning_gradood.corruptions.corruption import CIFAR_10_C, IMAGENET_C, TINY_IMAGENET_C
from lightning_gradood.corruptions.noise_and_blur import (
    defocus_blur,
    defocus_kernel,
    glass_blur,
    rearranged,
    shuffled,
    streaked,
    zoomed,
)

PHOTO = as_image(patches(64, 3)[1])
DISCS = sorted({settings for table in (CIFAR_10_C, TINY_IMAGENET_C, IMAGENET_C) for settings in table["defocus_blur"]})


def slow_streaks(image, radius, deviation, degrees):
    """ImageMagick's definition, pixel by pixel."""
    height, width = image.shape[:2]
    weights = [math.exp(-(step**2) / (2 * deviation**2)) for step in range(2 * radius + 1)]
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            for step, weight in enumerate(weights):
                y = row + math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
                x = column + math.ceil(step * math.cos(math.radians(degrees)) - 0.5)
                result[row, column] += weight * image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]
    return result / sum(weights)


def slow_rearranged(image, offsets, reach):
    """Pixels one after the other, from the last to the first."""
    result = image.copy()
    for row in range(image.shape[0] - reach, reach, -1):
        for column in range(image.shape[1] - reach, reach, -1):
            down, right = offsets[row - reach - 1, column - reach - 1]
            result[row, column] = result[row + down, column + right]
    return result


@pytest.mark.parametrize(("radius", "alias"), DISCS)
def test_defocus_equals_a_direct_convolution_with_a_kernel_that_sums_to_one(radius, alias):
    kernel = defocus_kernel(radius, alias)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    direct = correlate(PHOTO, kernel[..., None], mode="mirror")
    np.testing.assert_allclose(defocus_blur(PHOTO, None, radius, alias), direct, atol=1e-12)


def test_the_disc_is_a_disc():
    sharp = defocus_kernel(3, 0.1)  # so little softening leaves it as it is
    assert np.count_nonzero(sharp > 1e-6) == 29  # points of the grid within 3 of the centre
    np.testing.assert_allclose(sharp[sharp > 1e-6], 1 / 29)


@pytest.mark.parametrize("degrees", [-135, -90, -45, -20.5, 0, 17, 45, 90, 180])
def test_streaks_equal_the_definition_pixel_by_pixel(degrees):
    image = PHOTO[:12, :15]
    np.testing.assert_allclose(streaked(image, 4, 2.5, degrees), slow_streaks(image, 4, 2.5, degrees), atol=1e-12)


def test_no_light_is_lost():
    point = np.zeros((64, 64, 3))
    point[32, 32] = 1
    assert defocus_blur(point, None, 10, 0.5).sum() == pytest.approx(3)
    assert streaked(point, 12, 15, 30).sum() == pytest.approx(3)


@pytest.mark.parametrize("reach", [1, 2, 4])
@pytest.mark.parametrize("shape", [(32, 32), (9, 20), (5, 5), (2, 3)])
def test_shuffling_equals_the_loop_over_pixels(reach, shape):
    image = np.random.default_rng(0).random((*shape, 3))
    rows, columns = (max(0, size - 2 * reach) for size in shape)
    offsets = np.random.default_rng(reach).integers(-reach, reach, size=(rows, columns, 2))
    np.testing.assert_array_equal(rearranged(image, offsets, reach), slow_rearranged(image, offsets, reach))


def test_shuffling_moves_pixels_whole_and_not_far():
    places = np.indices((32, 32)).transpose(1, 2, 0).astype(float)
    places = np.concatenate([places, places.sum(axis=2, keepdims=True)], axis=2)
    found = shuffled(places, np.random.default_rng(0), 1)
    np.testing.assert_array_equal(found[..., 0] + found[..., 1], found[..., 2])
    assert np.abs(found - places)[..., :2].max() == 1
    assert (found != places).any(axis=2).mean() > 0.5


def test_glass_without_shuffling_is_two_gaussian_blurs():
    found = glass_blur(PHOTO, np.random.default_rng(0), 1.0, 1, 0)
    expected = gaussian_filter(PHOTO, (np.sqrt(2), np.sqrt(2), 0))
    # two Gaussians make one of √2 times the deviation, but for what grids and cutting off do to them
    np.testing.assert_allclose(found[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.06, 1.25, 1.75, 3.0, 4.5])
@pytest.mark.parametrize("shape", [(32, 32), (31, 47), (64, 64)])
def test_zooming_equals_scipy(factor, shape):
    image = PHOTO[: shape[0], : shape[1]]
    kept = [math.ceil(size / factor) for size in image.shape[:2]]
    first = [(size - part) // 2 for size, part in zip(image.shape[:2], kept, strict=True)]
    middle = image[first[0] : first[0] + kept[0], first[1] : first[1] + kept[1]]
    large = zoom(middle, (factor, factor, 1), order=1)
    cut = [(grown - size) // 2 for grown, size in zip(large.shape, image.shape[:2], strict=False)]
    expected = large[cut[0] : cut[0] + image.shape[0], cut[1] : cut[1] + image.shape[1]]
    np.testing.assert_allclose(zoomed(image, factor), expected, atol=1e-12)


@pytest.mark.parametrize(("severity", "count"), [(1, 7), (2, 12), (3, 16), (4, 21), (5, 26)])
def test_a_zoom_blur_of_a_small_image_uses_as_many_factors_as_the_published_one(severity, count):
    largest, step = CIFAR_10_C["zoom_blur"][severity - 1]
    assert len(np.arange(1, largest, step)) == count
