"""Brightness equals matplotlib's HSV, JPEG a file, pixelation block means."""

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from photo_patches import as_image, patches
from PIL import Image

from lightning_gradood.corruptions import corrupt
from lightning_gradood.corruptions.corruption import CIFAR_10_C
from lightning_gradood.corruptions.digital import brightness, contrast, pixelate

PHOTOS = patches(32, 6)


@pytest.mark.parametrize("pixels", PHOTOS[::2])
@pytest.mark.parametrize("gain", [0.05, 0.5])
def test_brightness_raises_the_value_of_hsv(pixels, gain):
    image = as_image(pixels)
    hsv = rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + gain, 0, 1)
    np.testing.assert_allclose(brightness(image, None, gain), hsv_to_rgb(hsv), atol=1e-12)


def test_black_becomes_grey():
    np.testing.assert_array_equal(brightness(np.zeros((4, 4, 3)), None, 0.3), np.full((4, 4, 3), 0.3))


@pytest.mark.parametrize("kept", [0.75, 0.05])
def test_contrast_keeps_each_channels_mean_and_scales_its_deviation(kept):
    image = as_image(PHOTOS[0])
    found = contrast(image, None, kept)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), image.mean(axis=(0, 1)))
    np.testing.assert_allclose(found.std(axis=(0, 1)), kept * image.std(axis=(0, 1)))


def test_pixelation_shows_block_means():
    pixels = patches(64, 2)[0]
    blocks = pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    expected = blocks.repeat(2, axis=0).repeat(2, axis=1)
    assert np.abs(pixelate(as_image(pixels), None, 0.5) * 255 - expected).max() <= 1  # rounded along rows, then columns


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_jpeg_equals_a_file_of_the_published_quality(severity, tmp_path):
    (quality,) = CIFAR_10_C["jpeg_compression"][severity - 1]
    for pixels in PHOTOS:
        Image.fromarray(pixels).save(tmp_path / "image.jpg", quality=quality)
        with Image.open(tmp_path / "image.jpg") as read:
            expected = np.asarray(read)
        np.testing.assert_array_equal(corrupt(pixels, "jpeg_compression", severity, np.random.default_rng(0)), expected)
