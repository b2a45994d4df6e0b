"""Enlarging the middle of an image to the image's own size."""

import math
from functools import lru_cache

import numpy as np

from lightning_gradood.corruptions.noise import Image


def zoomed(image: Image, factor: float) -> Image:
    """Cut out the middle and enlarge it linearly to the size of the image.

    Args:
        image: [H, W] or [H, W, C].
        factor: At least 1.

    Returns:
        As `image`: the middle of ``scipy.ndimage.zoom(middle, factor, order=1)``.
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
