"""Figures of networks: first-layer gradients (the paper's Figure 1), gradient norms (3a), activation norms (3b)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_gradood.records import NORMAL
from lightning_gradood.report.figure_data import BOX
from lightning_gradood.report.names import source_title, source_titles
from lightning_gradood.report.score_figures import line_styles, new_figure, tidy

_MOST_LAYERS = 12
_INCHES_PER_BOX = 0.13
_WIDEST = 14.0
_GROUP_WIDTH = 0.8
_HATCHES = {"-": "", "--": "/////", ":": ".....", "-.": "xxxxx"}  # for boxes, as dashes for lines


def layer_norms(boxes: Mapping[str, Any]) -> Figure:
    """Draw the distribution of squared gradient norms over images, per layer and source.

    Args:
        boxes: what `figure_data.boxes` returns, source `"normal"` first; `representative_layers` are drawn.

    Returns:
        One axes: per layer a box per source of log10 of the squared norm. Box: quartiles and median; whiskers: 5th and
        95th percentile; images beyond are not drawn.

    Reference:
        Lee et al. 2022, Figure 3a, which draws norms of one convolution per residual block.
    """
    names, sources = boxes["layers"].tolist(), boxes["boxes"]
    chosen = representative_layers(names)
    width = min(max(7.0, 1.5 + _INCHES_PER_BOX * len(chosen) * len(sources) + 0.25 * len(chosen)), _WIDEST)
    figure = new_figure(width, 4.8)
    axes = figure.add_subplot()
    width = _GROUP_WIDTH / len(sources)
    styles, titles = line_styles(list(sources)), source_titles(sources)
    for rank, (source, values) in enumerate(sources.items()):
        places = np.arange(len(chosen)) - _GROUP_WIDTH / 2 + width * (rank + 0.5)
        _boxes(axes, values[chosen], places, width, styles[source])
    labels = _short_names([names[column] for column in chosen])
    axes.set_xticks(range(len(chosen)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("log10 of the squared gradient norm")
    figure.suptitle("Gradient norms per layer (box: quartiles, whiskers: 5 % and 95 %)", fontsize=11)
    axes.set_xlim(-0.6, len(chosen) - 0.4)
    tidy(axes)
    axes.grid(visible=False, axis="x")
    counts = {source: f"{titles[source]} ({int(boxes['images'][source])})" for source in sources}
    handles = [Patch(**_face(styles[source]), label=label) for source, label in counts.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=8, frameon=False)
    return figure


def representative_layers(layer_names: Sequence[str]) -> list[int]:
    """Choose at most 12 increasing columns: weights of convolutions evenly through the network, and its last weight.

    Convolutions have `conv` in their module's name; a network without such names gets all weights, one without weights
    all tensors.
    """
    weights = [i for i, name in enumerate(layer_names) if name.endswith("weight")] or list(range(len(layer_names)))
    convolutions = [i for i in weights if "conv" in ".".join(layer_names[i].split(".")[-2:])] or weights
    last = weights[-1]
    candidates = [i for i in convolutions if i != last]
    steps = np.linspace(0, len(candidates) - 1, min(_MOST_LAYERS - 1, len(candidates)))
    return [*(candidates[int(step)] for step in np.round(steps)), last]


def _boxes(axes: Axes, values: np.ndarray, places: np.ndarray, width: float, style: tuple[str, str]) -> None:
    colour, _ = style
    axes.bxp(
        [dict(zip(BOX, box, strict=True)) for box in values.tolist()],
        positions=places.tolist(),
        widths=0.8 * width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops=_face(style),
        medianprops={"color": "black", "linewidth": 1.0},
        whiskerprops={"color": colour, "linewidth": 0.9},
        capprops={"color": colour, "linewidth": 0.9},
    )


def _face(style: tuple[str, str]) -> dict[str, Any]:
    colour, dash = style
    return {"facecolor": colour, "edgecolor": "black", "linewidth": 0.5, "hatch": _HATCHES[dash]}


def _short_names(names: Sequence[str]) -> list[str]:
    """Drop what all names share: the suffix `.weight`, prefixes such as `network.`."""
    modules = [name.removesuffix(".weight") for name in names]
    while len({module.partition(".")[0] for module in modules}) == 1 and all("." in module for module in modules):
        modules = [module.partition(".")[2] for module in modules]
    return modules


_NARROWEST = 9.0  # inches; a network has few feature layers, but the legend names every source


def activation_norms(boxes: Mapping[str, Any]) -> Figure:
    """Draw the distribution over images of the squared L2 norm of each feature layer's features, as `layer_norms` does.

    Reference:
        Lee et al. 2022, Figure 3b; there of whole feature maps, here of their spatial averages, which detectors read.
    """
    figure = layer_norms(boxes)
    figure.set_size_inches(max(figure.get_figwidth(), _NARROWEST), figure.get_figheight())
    figure.suptitle("Activation norms per feature layer (box: quartiles, whiskers: 5 % and 95 %)", fontsize=11)
    figure.axes[0].set_ylabel("log10 of the squared activation norm")
    return figure


_MOST = 16  # filters
_FILTER_SIDE = 4  # filters in a row
_INCHES = 1.75


def weight_gradients(
    name: str, weights: np.ndarray, gradients: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]
) -> Figure:
    """Show filters of the first convolution, and a row per image: the image, its gradients, their squared norm.

    `weights` [filters, C, h, w]; `gradients` and `images` (uint8 [H, W, C]) are by caption. The first 16 filters are
    shown; grey is zero; all gradients share one scale, the weights have their own (Lee et al. 2022, Figure 1).
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


def first_layer_figure(stored: Mapping[str, Any], chosen: Mapping[str, str] | None = None) -> Figure:
    """Draw `weight_gradients` of one image of some sources, from what `first_layer` returns.

    `chosen` is caption to source; by default the normal one, the first anomaly source and the last.
    """
    others = [source for source in stored["images"] if source != NORMAL]
    chosen = chosen or {source_title(source): source for source in (NORMAL, *others[:1], *others[-1:])}
    gradients, images = (
        {caption: stored[kind][source] for caption, source in chosen.items()} for kind in ("gradients", "images")
    )
    return weight_gradients(str(stored["name"]), stored["weights"], gradients, images)


def _mosaic(filters: np.ndarray, scale: float) -> np.ndarray:
    """Filters in rows of four with white between them, float [H, W, 3] in [0, 1], 0.5 for zero."""
    shown = filters[:_MOST]
    if shown.shape[1] != 3:  # not RGB: the mean over channels in grey
        shown = np.repeat(shown.mean(axis=1, keepdims=True), 3, axis=1)
    _, _, height, width = shown.shape
    rows = -(-len(shown) // _FILTER_SIDE)
    mosaic = np.ones((rows * (height + 1) - 1, _FILTER_SIDE * (width + 1) - 1, 3))
    for place, one in enumerate(shown):
        top, left = (place // _FILTER_SIDE) * (height + 1), (place % _FILTER_SIDE) * (width + 1)
        mosaic[top : top + height, left : left + width] = 0.5 + one.transpose(1, 2, 0) / (2 * scale or 1.0)
    return np.clip(mosaic, 0, 1)


def _show(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, interpolation="nearest", cmap="gray")
    axes.set_title(title, fontsize=8)
