"""A sheet of images, so that a reader sees what was called normal and what anomalous (the paper's Figure 4)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from lightning_gradood.report.palette import new_figure

_GAP = 16  # images are this many times as wide as the white between them
_MOST_IMAGES = 12
_SIDE, _BETWEEN, _MARGIN = 0.8, 0.08, 0.2  # inches
_LETTERS = 10  # points, 72 to an inch


def sample_sheet(samples: Mapping[str, np.ndarray]) -> Figure:
    """Show a row of images per source, pixels as they are.

    Args:
        samples: source name to uint8 images [k, H, W, C], C = 1 (grey) or 3 (RGB); the first 12 are shown.

    Returns:
        One axes per source, labelled with its name, nearest-neighbour interpolation.

    Reference:
        Lee et al. 2022, Figure 4.
    """
    count = max(min(len(images), _MOST_IMAGES) for images in samples.values())
    left = _MARGIN + max(TextPath((0, 0), source, size=_LETTERS).get_extents().width for source in samples) / 72
    heights = [_SIDE * images.shape[1] / images.shape[2] + _BETWEEN for images in samples.values()]
    width, height = left + _SIDE * count + _BETWEEN, sum(heights) + _BETWEEN
    figure = new_figure(width, height)
    # Images keep their aspect, which a layout engine does not allow for when it makes room for the names.
    figure.set_layout_engine("none")
    for row, (source, images) in enumerate(samples.items()):
        bottom = height - sum(heights[: row + 1])
        place = (left / width, bottom / height, _SIDE * count / width, (heights[row] - _BETWEEN) / height)
        axes = figure.add_axes(place)
        strip = _strip(images[:_MOST_IMAGES], count)
        axes.imshow(strip, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(source, rotation=0, ha="right", va="center", fontsize=_LETTERS)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure


def _strip(images: np.ndarray, count: int) -> np.ndarray:
    """Put images side by side on white, uint8 [H, count·(W + gap) − gap, 3] or without the last axis if grey."""
    _, height, width, channels = images.shape
    gap = max(width // _GAP, 1)
    strip = np.full((height, count * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        left = place * (width + gap)
        strip[:, left : left + width] = image
    return strip[:, :, 0] if channels == 1 else strip
