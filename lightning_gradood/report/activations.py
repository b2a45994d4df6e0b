"""Activation norms tap by tap, normal images beside each anomaly source (the paper's Figure 3b)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_gradood.probes import columns_of_taps
from lightning_gradood.report.layers import layer_norms

_NARROWEST = 9.0  # inches; a network has few taps, but the legend names every source


def activation_norms(features: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Draw the distribution over images of the squared L2 norm of each tap's features.

    Args:
        features: source name to the taps' spatial averages, [n, ΣC], `"normal"` first.
        names: of the ΣC columns, `tap.channel`, as `FeatureProbe` gives them.

    Returns:
        One axes as `layer_norms` draws it: per tap a box per source of log10 of the squared norm.

    Reference:
        Lee et al. 2022, Figure 3b; there of whole feature maps, here of their spatial averages, which detectors read.
    """
    taps = columns_of_taps(names)
    norms = {
        source: np.stack([np.square(values[:, columns]).sum(axis=1) for columns in taps.values()], axis=1)
        for source, values in features.items()
    }
    figure = layer_norms(norms, list(taps))
    figure.set_size_inches(max(figure.get_figwidth(), _NARROWEST), figure.get_figheight())
    axes = figure.axes[0]
    axes.set_title("Activation norms per tap (box: quartiles, whiskers: 5 % and 95 %)", fontsize=11)
    axes.set_ylabel("log10 of the squared activation norm")
    return figure
