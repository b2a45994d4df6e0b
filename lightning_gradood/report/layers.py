"""Gradient norms layer by layer, normal images beside each anomaly source (the paper's Figure 3a)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_gradood.report.palette import line_styles, new_figure, tidy

_FLOOR = 1e-30  # the detector's own: log(value + 1e-30)
_WHISKERS = (5, 95)
_INCHES_PER_BOX = 0.13
_WIDEST = 14.0
_GROUP_WIDTH = 0.8
_HATCHES = {"-": "", "--": "/////", ":": ".....", "-.": "xxxxx"}  # what dashes are to lines


def layer_norms(norms: Mapping[str, np.ndarray], layer_names: Sequence[str], most_layers: int = 12) -> Figure:
    """Draw the distribution of squared gradient norms over images, per layer and source.

    Args:
        norms: source name to squared L2 norms, float64 [n, L], `"normal"` first.
        layer_names: names of the L parameter tensors.
        most_layers: how many layers are drawn at most.

    Returns:
        One axes: per layer a box per source of log10 of the squared norm. Box: quartiles and median; whiskers: 5th and
        95th percentile; images beyond are not drawn.

    Reference:
        Lee et al. 2022, Figure 3a, which draws norms of one convolution per residual block.
    """
    chosen = representative_layers(layer_names, most_layers)
    boxes = len(chosen) * len(norms)
    figure = new_figure(min(max(7.0, 1.5 + _INCHES_PER_BOX * boxes + 0.25 * len(chosen)), _WIDEST), 4.8)
    axes = figure.add_subplot()
    width = _GROUP_WIDTH / len(norms)
    styles = line_styles(list(norms))
    for rank, (source, values) in enumerate(norms.items()):
        places = np.arange(len(chosen)) - _GROUP_WIDTH / 2 + width * (rank + 0.5)
        _boxes(axes, np.log10(values[:, chosen] + _FLOOR), places, width, styles[source])
    labels = _short_names([layer_names[column] for column in chosen])
    axes.set_xticks(range(len(chosen)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("log10 of the squared gradient norm")
    axes.set_title("Gradient norms per layer (box: quartiles, whiskers: 5 % and 95 %)", fontsize=11)
    axes.set_xlim(-0.6, len(chosen) - 0.4)
    tidy(axes)
    axes.grid(visible=False, axis="x")
    handles = [Patch(**_face(styles[source]), label=f"{source} ({len(values)})") for source, values in norms.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=8, frameon=False)
    return figure


def representative_layers(layer_names: Sequence[str], most: int = 12) -> list[int]:
    """Choose weights of convolutions evenly through the network, and its last weight.

    Args:
        layer_names: names of the parameter tensors, in the network's order.
        most: how many to choose at most, at least 2.

    Returns:
        Increasing columns. Convolutions are known by `conv` in the last part of the module's name; a network that
        names none gets all its weights, one without weights all its tensors.
    """
    weights = [i for i, name in enumerate(layer_names) if name.endswith("weight")] or list(range(len(layer_names)))
    convolutions = [i for i in weights if "conv" in ".".join(layer_names[i].split(".")[-2:])] or weights
    last = weights[-1]
    candidates = [i for i in convolutions if i != last]
    steps = np.linspace(0, len(candidates) - 1, min(most - 1, len(candidates)))
    return [*(candidates[int(step)] for step in np.round(steps)), last]


def _boxes(axes: Axes, values: np.ndarray, places: np.ndarray, width: float, style: tuple[str, str]) -> None:
    colour, _ = style
    axes.boxplot(
        values,
        positions=places.tolist(),
        widths=0.8 * width,
        whis=_WHISKERS,
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
    """Drop what all names share: `.weight` behind, wrappers such as `network.` in front."""
    modules = [name.removesuffix(".weight") for name in names]
    while len({module.partition(".")[0] for module in modules}) == 1 and all("." in module for module in modules):
        modules = [module.partition(".")[2] for module in modules]
    return modules
