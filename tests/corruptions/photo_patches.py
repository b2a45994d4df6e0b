"""Patches of real photographs to corrupt."""

import numpy as np

from lightning_gradood.data import PhotoPatches


def patches(size, count):
    """uint8 [count, size, size, 3], spread over both photographs that come with scikit-learn."""
    pixels = PhotoPatches(size).open().pixels
    return pixels[np.linspace(0, len(pixels) - 1, count).astype(int)]


def as_image(pixels):
    """float64 in [0, 1], as the functions of the room take it."""
    return pixels / 255


def mean_change(corrupted, pixels):
    """Mean absolute difference in grey levels."""
    return np.abs(corrupted.astype(float) - pixels).mean()
