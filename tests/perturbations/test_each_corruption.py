"""Each kind against slow loops, direct convolutions, scipy, Pillow and matplotlib, and the statistics of its parameters."""

import math

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import correlate, gaussian_filter, zoom

from lightning_gradood.perturbations import corrupt
from lightning_gradood.perturbations import corruption_kinds as kinds
from lightning_gradood.perturbations.corruption import published

from .conftest import patches

SMALL = patches(32, 6)
IMAGE = SMALL[2] / 255
PHOTO = patches(64, 3)[1] / 255
GREY = np.full((200, 200, 3), 0.4)
TABLES = [*published().values()]
RAMP = np.concatenate([np.indices((64, 64)), np.zeros((1, 64, 64))]).transpose(1, 2, 0) / 64  # pixels know their place


def seeded(seed=0):
    return np.random.default_rng(seed)


def test_noise_has_the_deviation_variance_and_share_asked_for():
    for deviation in (0.04, 0.38):
        noise = kinds.gaussian_noise(GREY, seeded(), deviation) - GREY
        assert noise.std() == pytest.approx(deviation, rel=0.01)
    for photons in (500, 3):
        found = kinds.shot_noise(GREY, seeded(), photons)
        assert (found.mean(), found.var()) == (pytest.approx(0.4, rel=0.01), pytest.approx(0.4 / photons, rel=0.02))
        np.testing.assert_allclose(found * photons, np.rint(found * photons), atol=1e-9)  # counts
    assert not kinds.shot_noise(np.zeros((8, 8, 3)), seeded(), 3).any()
    for share in (0.01, 0.27):
        found = kinds.impulse_noise(GREY, seeded(), share)
        changed = found != GREY
        assert changed.mean() == pytest.approx(share, rel=0.05)
        assert set(np.unique(found[changed])) == {0.0, 1.0}
        assert found[changed].mean() == pytest.approx(0.5, abs=0.05)
    assert changed.all(axis=2).mean() == pytest.approx(0.27**3, rel=0.1)  # channels are hit apart from each other


def test_defocus_equals_a_direct_convolution_with_a_disc():
    for radius, alias in sorted({settings for table in TABLES for settings in table["defocus_blur"]}):
        kernel = kinds.defocus_kernel(radius, alias)
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
        direct = correlate(PHOTO, kernel[..., None], mode="mirror")
        np.testing.assert_allclose(kinds.defocus_blur(PHOTO, None, radius, alias), direct, atol=1e-12)
    sharp = kinds.defocus_kernel(3, 0.1)  # so little softening leaves it as it is
    assert np.count_nonzero(sharp > 1e-6) == 29  # points of the grid within 3 of the centre
    np.testing.assert_allclose(sharp[sharp > 1e-6], 1 / 29)


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


def test_streaks_equal_the_definition_pixel_by_pixel():
    image = PHOTO[:12, :15]
    for degrees in (-135, -90, -45, -20.5, 0, 17, 45, 90, 180):
        found = kinds.streaked(image, 4, 2.5, degrees)
        np.testing.assert_allclose(found, slow_streaks(image, 4, 2.5, degrees), atol=1e-12)


def slow_rearranged(image, offsets, reach):
    """Pixels one after the other, from the last to the first."""
    result = image.copy()
    for row in range(image.shape[0] - reach, reach, -1):
        for column in range(image.shape[1] - reach, reach, -1):
            down, right = offsets[row - reach - 1, column - reach - 1]
            result[row, column] = result[row + down, column + right]
    return result


def test_glass_shuffles_as_the_loop_over_pixels_and_blurs():
    for shape in ((32, 32), (9, 20), (5, 5), (2, 3)):
        for reach in (1, 2, 4):
            image, sides = seeded().random((*shape, 3)), [max(0, size - 2 * reach) for size in shape]
            offsets = seeded(reach).integers(-reach, reach, size=(*sides, 2))
            expected = slow_rearranged(image, offsets, reach)
            np.testing.assert_array_equal(kinds.rearranged(image, offsets, reach), expected)
            np.testing.assert_array_equal(kinds.shuffled(image, seeded(reach), reach), expected)
    # without shuffling two Gaussians make one of √2 times the deviation, but for what grids and cutting off do to them
    found, expected = kinds.glass_blur(PHOTO, seeded(), 1.0, 1, 0), gaussian_filter(PHOTO, (np.sqrt(2), np.sqrt(2), 0))
    np.testing.assert_allclose(found[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-4)


def test_zooming_equals_scipy():
    for shape in ((32, 32), (31, 47), (64, 64)):
        for factor in (1.0, 1.01, 1.06, 1.25, 1.75, 3.0, 4.5):
            image = PHOTO[: shape[0], : shape[1]]
            kept = [math.ceil(size / factor) for size in shape]
            first = [(size - part) // 2 for size, part in zip(shape, kept, strict=True)]
            middle = image[first[0] : first[0] + kept[0], first[1] : first[1] + kept[1]]
            large = zoom(middle, (factor, factor, 1), order=1)
            cut = [(grown - size) // 2 for grown, size in zip(large.shape, shape, strict=False)]
            expected = large[cut[0] : cut[0] + shape[0], cut[1] : cut[1] + shape[1]]
            np.testing.assert_allclose(kinds.zoomed(image, factor), expected, atol=1e-12)


def test_brightness_raises_the_value_of_hsv_and_contrast_scales_each_channel():
    for pixels in SMALL[::2]:
        image = pixels / 255
        for gain in (0.05, 0.5):
            hsv = rgb_to_hsv(image)
            hsv[..., 2] = np.clip(hsv[..., 2] + gain, 0, 1)
            np.testing.assert_allclose(kinds.brightness(image, None, gain), hsv_to_rgb(hsv), atol=1e-12)
        for kept in (0.75, 0.05):
            found = kinds.contrast(image, None, kept)
            np.testing.assert_allclose(found.mean(axis=(0, 1)), image.mean(axis=(0, 1)))
            np.testing.assert_allclose(found.std(axis=(0, 1)), kept * image.std(axis=(0, 1)))
    np.testing.assert_array_equal(kinds.brightness(np.zeros((4, 4, 3)), None, 0.3), np.full((4, 4, 3), 0.3))


def test_pixelation_shows_block_means_and_jpeg_equals_a_file(tmp_path):
    pixels = patches(64, 2)[0]
    blocks = pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    assert np.abs(kinds.pixelate(pixels / 255, None, 0.5) * 255 - blocks).max() <= 1  # rounded along rows, then columns
    for severity, (quality,) in enumerate(published()["CIFAR-10-C"]["jpeg_compression"], start=1):
        Image.fromarray(SMALL[0]).save(tmp_path / "image.jpg", quality=quality)
        with Image.open(tmp_path / "image.jpg") as read:
            expected = np.asarray(read)
        np.testing.assert_array_equal(corrupt(SMALL[0], "jpeg_compression", severity, seeded()), expected)


def test_elastic_moves_what_it_says_it_moves():
    np.testing.assert_allclose(kinds.elastic_transform(RAMP, seeded(), 0, 0, 0), RAMP, atol=1e-12)
    moves = np.array([[3.0, -2.0], [1.5, 4.0], [-2.5, 0.5]])
    for shape in ((64, 64), (40, 90)):
        matrix, offset = kinds._affine(np.zeros((*shape, 3)), moves)
        for move, side in zip(moves, ([1, 1], [1, -1], [-1, -1]), strict=True):
            corner = np.array(shape) // 2 + min(shape) // 3 * np.array(side)
            np.testing.assert_allclose(matrix @ (corner + move) + offset, corner)
    found = kinds.elastic_transform(RAMP, seeded(), 0.1, 0.04, 0.0)[..., :2] * 64
    # white noise of deviation 1/√3 that a Gaussian of s pixels has smoothed keeps 1 / (2 √π s) of it
    expected = 0.1 * 64 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 0.04 * 64)
    assert (found - 64 * RAMP[..., :2])[8:-8, 8:-8].std() == pytest.approx(expected, rel=0.15)


def roughness(field):
    """Mean square step between neighbours over the variance."""
    return (np.diff(field, axis=0) ** 2).mean() / field.var()


def test_plasma_spans_the_unit_interval_without_seam_and_is_rougher_with_less_decay():
    for side in (2, 32, 256):
        field = kinds.plasma(side, side, seeded(), 3)
        assert (field.min(), field.max()) == (0, 1)
        assert np.abs(field[0] - field[-1]).mean() < 3 * np.abs(np.diff(field, axis=0)).mean()
    found = [roughness(kinds.plasma(64, 64, seeded(), decay)) for decay in (1, 1.3, 2)]
    assert found == sorted(found, reverse=True)


def test_snow_only_adds_light_and_falls_downwards():
    falling = []
    for settings in (one for table in TABLES for one in table["snow"]):
        assert (kinds.snow(IMAGE, seeded(), *settings) >= IMAGE - 1e-12).all()
        black = kinds.snow(np.zeros((64, 64, 3)), seeded(), *settings)[..., 0]
        falling.append(np.abs(np.diff(black, axis=0)).mean() / np.abs(np.diff(black, axis=1)).mean())
    assert np.mean(np.reshape(falling, (3, 5)), axis=1).max() < 0.9  # streaks change less along their way than across


def test_fog_never_outshines_the_image_and_vanishes_with_its_density():
    veiled, other = (kinds.fog(one, seeded(), 1.5, 2) for one in (IMAGE, IMAGE[::-1]))
    assert veiled.max() <= IMAGE.max()
    np.testing.assert_allclose(veiled - other, (IMAGE - IMAGE[::-1]) * IMAGE.max() / (IMAGE.max() + 1.5))
    np.testing.assert_array_equal(kinds.fog(IMAGE, seeded(), 0, 2), IMAGE)
    assert not kinds.fog(np.zeros((8, 8, 3)), seeded(), 1.5, 2).any()


def test_frost_is_as_bright_contrasted_and_blue_as_photographs_of_frost():
    for size, scale in ((32, 0.2), (64, 0.3), (224, 1)):
        drawn = np.stack([kinds.crystals(size, size, seeded(seed), scale) for seed in range(20)])
        means, contrasts = drawn.mean(axis=(1, 2, 3)), drawn.mean(axis=3).std(axis=(1, 2))
        assert kinds.DARKEST - 0.02 < means.min() < means.max() < kinds.BRIGHTEST + 0.02
        assert means.mean() == pytest.approx(0.645, abs=0.05)  # that of the five photographs
        assert 0.07 < contrasts.min() < contrasts.max() < 0.18
        assert np.corrcoef(means, contrasts)[0, 1] < -0.8
        red, _, blue = drawn.mean(axis=(0, 1, 2))
        assert blue > red + 0.03
    fine, coarse = (kinds.crystals(128, 128, seeded(), scale)[..., 0] for scale in (0.2, 1))
    assert roughness(fine) > roughness(coarse)
    drawn = kinds.crystals(32, 32, seeded(), 0.2)
    np.testing.assert_allclose(kinds.frost(IMAGE, seeded(), 0.75, 0.45, 0.2), 0.75 * IMAGE + 0.45 * drawn)
