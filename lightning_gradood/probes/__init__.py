"""Probes: what is read from the network for each image.

A `Probe` is called with a network and a batch and returns one row of numbers an image. Each probe is one column of the
records and is cached on its own; `read_probes` reads several in one pass, so that label designs share their forward.

    >>> import torch
    >>> from lightning_gradood.gradients import AllOnes
    >>> from lightning_gradood.probes import GradientProbe, LogitsProbe, read_probes
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    >>> reading = read_probes([GradientProbe(AllOnes()), LogitsProbe()], network, torch.rand(2, 3, 2, 2))
    >>> {name: tuple(values.shape) for name, values in reading.values.items()}
    {'gradients/all_ones': (2, 2), 'logits': (2, 3)}

What feature detectors read comes from *feature layers*: `feature_layer_names` says which of a network's modules they
are, `feature_layer_outputs` reads them with gradients where those are enabled, `FeatureProbe` makes a column of them.
All probes of this kind (`FeatureLayerProbe`) share one forward pass, which changes no value.
"""

from lightning_gradood.probes.feature_layers import (
    PENULTIMATE,
    feature_layer_gradient,
    feature_layer_names,
    feature_layer_output,
    feature_layer_outputs,
    linear_head,
)
from lightning_gradood.probes.feature_probes import (
    FeatureLayerProbe,
    FeatureProbe,
    FeatureSpreadProbe,
    PenultimateProbe,
    ProbeReadings,
    columns_by_layer,
    read_probes,
    try_probes,
)
from lightning_gradood.probes.probe import GradientProbe, LogitsProbe, PixelProbe, Probe, SharedLogitsProbe

__all__ = [
    "PENULTIMATE", "FeatureLayerProbe", "FeatureProbe", "FeatureSpreadProbe", "GradientProbe", "LogitsProbe",
    "PenultimateProbe", "PixelProbe", "Probe", "ProbeReadings", "SharedLogitsProbe", "columns_by_layer",
    "feature_layer_gradient", "feature_layer_names", "feature_layer_output", "feature_layer_outputs",
    "linear_head", "read_probes", "try_probes",
]  # fmt: skip
