"""First-layer weights beside the gradients that single images ask for (the paper's Figure 1)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gradood.report.palette import new_figure

_MOST = 16  # filters
_SIDE = 4  # filters in a row
_INCHES = 1.75


def weight_gradients(
    name: str, weights: np.ndarray, gradients: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]
) -> Figure:
    """Show filters of the first convolution, and under each image what it asks to change of them.

    Args:
        name: of the weight.
        weights: [filters, C, h, w].
        gradients: caption of an image to the gradient of `weights` for it, of the same shape.
        images: the same captions to uint8 [H, W, C], C = 1 or 3.

    Returns:
        A row for the weights and one for each image: image, then gradients, with their squared norm. Grey is zero; all
        gradients share one scale, the weights have their own. The first 16 filters are shown.

    Reference:
        Lee et al. 2022, Figure 1.
    """
    rows = len(gradients) + 1
    figure = new_figure(2 * _INCHES + 0.6, rows * (_INCHES + 0.35))
    places = figure.subplots(rows, 2, squeeze=False)
    scale = max(float(np.abs(one[:_MOST]).max()) for one in gradients.values())
    places[0][0].text(0.5, 0.5, f"{name}\n{list(weights.shape)}", ha="center", va="center", fontsize=8, wrap=True)
    _show(places[0][1], _mosaic(weights, float(np.abs(weights[:_MOST]).max())), "weights")
    for (image_axes, axes), (caption, gradient) in zip(places[1:], gradients.items(), strict=True):
        _show(image_axes, images[caption], caption)
        _show(axes, _mosaic(gradient, scale), f"gradient, norm² {np.square(gradient).sum():.3g}")
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def _mosaic(filters: np.ndarray, scale: float) -> np.ndarray:
    """Filters in rows of four with white between them, float [H, W, 3] in [0, 1], 0.5 for zero."""
    shown = filters[:_MOST]
    if shown.shape[1] != 3:  # not RGB: the mean over channels in grey
        shown = np.repeat(shown.mean(axis=1, keepdims=True), 3, axis=1)
    _, _, height, width = shown.shape
    rows = -(-len(shown) // _SIDE)
    mosaic = np.ones((rows * (height + 1) - 1, _SIDE * (width + 1) - 1, 3))
    for place, one in enumerate(shown):
        top, left = (place // _SIDE) * (height + 1), (place % _SIDE) * (width + 1)
        mosaic[top : top + height, left : left + width] = 0.5 + one.transpose(1, 2, 0) / (2 * scale or 1.0)
    return np.clip(mosaic, 0, 1)


def _show(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, interpolation="nearest", cmap="gray")
    axes.set_title(title, fontsize=8)
