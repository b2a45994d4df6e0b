"""A matrix of sources as a heat map: which anomalies teach a detector to find which others."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightning_gradood.report.matrix import Matrix
from lightning_gradood.report.palette import new_figure

_CELL, _MARGIN = 0.72, 2.4  # inches
_CHANCE = 0.5
_DARK = 0.62  # share of the colour scale above which letters are white


def heat_map(matrix: Matrix) -> Figure:
    """Draw the AUROC of one detector for each source of training (rows) and of testing (columns).

    Args:
        matrix: what to draw.

    Returns:
        Two axes: cells from white (chance, or less) to dark blue (all told apart), each with its AUROC in %, those trained
        and tested on the same source framed; and the scale.
    """
    count = len(matrix.sources)
    figure = new_figure(_CELL * count + _MARGIN + 0.8, _CELL * count + _MARGIN)
    axes = figure.add_subplot()
    image = axes.imshow(np.maximum(matrix.aurocs, _CHANCE), cmap="Blues", vmin=_CHANCE, vmax=1.0)
    for row, column in np.ndindex(count, count):
        value = matrix.aurocs[row, column]
        if np.isnan(value):
            continue
        colour = "white" if (value - _CHANCE) / (1 - _CHANCE) > _DARK else "black"
        axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    for place in range(count):
        axes.add_patch(
            Rectangle((place - 0.47, place - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=1.4)
        )
    axes.set_xticks(range(count), matrix.sources, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(count), matrix.sources, fontsize=9)
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"AUROC of {matrix.detector} in %, test split", fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    bar.ax.set_yticklabels(["≤ 50", "60", "70", "80", "90", "100"], fontsize=8)
    bar.outline.set_visible(False)
    return figure
