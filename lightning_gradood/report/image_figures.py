"""Figures of images: a few of each source, those on which a detector was most wrong, attacked ones, an explained one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from lightning_gradood.report.names import source_title, source_titles
from lightning_gradood.report.score_figures import CHANGED_COLOUR, new_figure, tidy

_GAP = 16  # images are this many times as wide as the white between them
_MOST_IMAGES = 12
_SIDE, _BETWEEN, _MARGIN = 0.8, 0.08, 0.2  # inches
_LETTERS = 10  # points, 72 to an inch
_SCORE = 0.16  # inches under an image


def sample_sheet(samples: Mapping[str, np.ndarray], below: float = 0.0) -> Figure:
    """Show a row of images per source, pixels as they are.

    Args:
        samples: source to uint8 images [k, H, W, C], C = 1 (grey) or 3 (RGB); the first 12 are shown.
        below: room under each row, in inches.

    Reference:
        Lee et al. 2022, Figure 4.
    """
    count = max(min(len(images), _MOST_IMAGES) for images in samples.values())
    titles = source_titles(samples)
    left = _MARGIN + max(TextPath((0, 0), title, size=_LETTERS).get_extents().width for title in titles.values()) / 72
    heights = [_SIDE * images.shape[1] / images.shape[2] + _BETWEEN + below for images in samples.values()]
    width, height = left + _SIDE * count + _BETWEEN, sum(heights) + _BETWEEN
    figure = new_figure(width, height)
    # Layout engines ignore the images' fixed aspect when they make room for the names.
    figure.set_layout_engine("none")
    for row, (source, images) in enumerate(samples.items()):
        bottom = height - sum(heights[: row + 1]) + below
        place = (left / width, bottom / height, _SIDE * count / width, (heights[row] - _BETWEEN - below) / height)
        axes = figure.add_axes(place)
        strip = _strip(images[:_MOST_IMAGES], count)
        axes.imshow(strip, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(titles[source], rotation=0, ha="right", va="center", fontsize=_LETTERS)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure


def extreme_images(rows: Mapping[str, Any]) -> Figure:
    """Show the first 12 `images` of each row, each with its score below; see `figure_data`."""
    figure = sample_sheet({name: row["images"] for name, row in rows.items()}, below=_SCORE)
    for axes, row in zip(figure.axes, rows.values(), strict=True):
        _, height, width, _ = row["images"].shape
        gap = max(width // _GAP, 1)
        for place, score in enumerate(row["scores"][:_MOST_IMAGES]):
            middle = place * (width + gap) + width / 2
            axes.text(middle, height, f"{score:.3g}", ha="center", va="top", fontsize=7)
    return figure


def _strip(images: np.ndarray, count: int) -> np.ndarray:
    """Put images side by side on white: uint8 [H, count·(W + gap) − gap, 3], without the last axis if grey."""
    _, height, width, channels = images.shape
    gap = max(width // _GAP, 1)
    strip = np.full((height, count * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        left = place * (width + gap)
        strip[:, left : left + width] = image
    return strip[:, :, 0] if channels == 1 else strip


_PAIR_SIDE, _BELOW, _ABOVE = 0.95, 0.22, 0.34  # inches: of an image, of its prediction, of heads
_BLOCKS = 3  # attacks in a row
_FACTORS = (1, 2, 5, 10, 20, 50, 100)
_LONGEST = 11  # letters of a prediction


def attacked_samples(pairs: Mapping[str, Any]) -> Figure:
    """Show rows of clean image, attacked image and amplified difference, with predictions; one axes per attack.

    The difference is on grey; its factor, in the head, is the largest of 1, 2, 5, ... 100 that keeps 99 % of the values
    on the scale. A prediction that the attack changed is red.
    """
    columns, rows = min(len(pairs), _BLOCKS), -(-len(pairs) // _BLOCKS)
    tall = max(len(one["clean"]) * one["clean"].shape[1] / one["clean"].shape[2] for one in pairs.values())
    most = max(len(one["clean"]) for one in pairs.values())
    wide, high = 3 * _PAIR_SIDE + 0.5, tall * _PAIR_SIDE + most * _BELOW + _ABOVE
    figure = new_figure(columns * wide + 0.1, rows * high + 0.3)
    figure.suptitle("Images before and after attacks, with predictions", fontsize=11)
    figure.set_layout_engine("constrained", wspace=0.12)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, one) in zip(places, pairs.items(), strict=False):
        _show_pairs(axes, one, source_title(name))
    for axes in places:
        axes.set_axis_off()
    return figure


def _show_pairs(axes: Axes, pairs: Mapping[str, np.ndarray], name: str) -> None:
    clean, attacked = pairs["clean"], pairs["attacked"]
    count, height, width, _ = clean.shape
    gap, below = max(width // _GAP, 1), round(width * _BELOW / _PAIR_SIDE)
    changes = attacked.astype(int) - clean
    largest = float(np.percentile(np.abs(changes), 99))
    factor = max((one for one in _FACTORS if one * largest <= 127), default=1)
    difference = np.clip(128 + factor * changes, 0, 255).astype(np.uint8)
    canvas = np.full((count * (height + below), 3 * width + 2 * gap, 3), 255, dtype=np.uint8)
    for column, images in enumerate((clean, attacked, difference)):
        for row, image in enumerate(images):
            top, left = row * (height + below), column * (width + gap)
            canvas[top : top + height, left : left + width] = image  # grey is repeated
    axes.imshow(canvas, interpolation="nearest")
    middles = [column * (width + gap) + width / 2 for column in range(3)]
    for middle, head in zip(middles, ("clean", name, f"difference × {factor}"), strict=True):
        axes.text(middle, -0.06 * height, head, ha="center", va="bottom", fontsize=8)
    for row, (before, after) in enumerate(pairs["predictions"].tolist()):
        for middle, word, colour in zip(
            middles, (before, after), ("black", "black" if before == after else CHANGED_COLOUR), strict=False
        ):
            bottom = row * (height + below) + height
            axes.text(middle, bottom, f"predicted {_short(word)}", ha="center", va="top", fontsize=7, color=colour)


def _short(word: str) -> str:
    return word if len(word) <= _LONGEST else f"{word[: _LONGEST - 1]}…"


_BARS = 12  # contributions in a figure of one explanation


def explanation_figure(
    image: np.ndarray, heat: np.ndarray | None, contributions: Mapping[str, float], title: str, note: str = ""
) -> Figure:
    """Show an image, which of its pixels would change the score, and the 12 readings that contribute most to it.

    Args:
        image: uint8 [H, W, C], C = 1 or 3.
        heat: float [H, W], see `guard.Explanation`; None where there is none.
        contributions: reading to what it adds to the score.
        note: shown in place of the heat map.
    """
    largest = sorted(contributions, key=lambda name: -abs(contributions[name]))[:_BARS]
    figure = new_figure(10.5, 3.4)
    figure.suptitle(title, fontsize=10)
    picture, warmth, bars = figure.subplots(1, 3, width_ratios=(1, 1, 2.2))
    picture.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", interpolation="nearest")
    picture.set_title("image", fontsize=9)
    if heat is None:
        warmth.text(0.5, 0.5, note, ha="center", va="center", fontsize=8, wrap=True)
    else:
        warmth.imshow(heat, cmap="magma", interpolation="nearest")
        warmth.set_title("pixels that would change the score", fontsize=9)
    for axes in (picture, warmth):
        axes.set_axis_off()
    values = [contributions[name] for name in largest][::-1]
    bars.barh(range(len(largest)), values, color=["#D55E00" if value > 0 else "#0072B2" for value in values])
    bars.set_yticks(range(len(largest)), largest[::-1], fontsize=7)
    bars.tick_params(axis="x", labelsize=8)
    bars.set_title("largest contributions to the score, from the mean normal image", fontsize=9)
    tidy(bars)
    return figure
