"""Pixels that take the place of their neighbours, as behind frosted glass."""

import numpy as np
from numpy.typing import NDArray

from lightning_gradood.corruptions.noise import Image


def shuffled(image: Image, generator: np.random.Generator, reach: int) -> Image:
    """Give every pixel, except those near the border, the value of a random neighbour.

    Args:
        image: [H, W, 3].
        generator: Draws two offsets, each from -`reach` to `reach` - 1, for each pixel.
        reach: In pixels, at least 1. Images of up to 2 · `reach` pixels a side stay as they are.

    Returns:
        [H, W, 3], values of `image` only.
    """
    rows, columns = (max(0, size - 2 * reach) for size in image.shape[:2])
    return rearranged(image, generator.integers(-reach, reach, size=(rows, columns, 2)), reach)


def rearranged(image: Image, offsets: NDArray[np.int64], reach: int) -> Image:
    """Visit pixels from the last to the first and overwrite each by the pixel at its offset, as it is by then.

    The published scripts mean to swap two pixels; what they do, and what the published images show, is to overwrite one.
    A pixel copies either a value that is not overwritten yet or one that is; which one is a chain of references, and all
    chains are followed at once by doubling instead of one pixel after the other.

    Args:
        image: [H, W, 3].
        offsets: [H - 2 · reach, W - 2 · reach, 2], down and right, of rows and columns reach + 1 … size - reach.
        reach: In pixels, at least 1.

    Returns:
        [H, W, 3], values of `image` only.
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
    arranged: Image = image.reshape(count, -1)[node[:count] - count].reshape(image.shape)
    return arranged
