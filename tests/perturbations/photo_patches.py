"""Patches of real photographs to corrupt."""

import numpy as np

from lightning_gradood.data import PhotoPatches


def patches(size, count):
    """uint8 [count, size, size, 3], spread over both photographs that come with scikit-learn."""
    pixels = PhotoPatches(size).open().pixels
    return pixels[np.linspace(0, len(pixels) - 1, count).astype(int)]
