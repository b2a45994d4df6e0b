"""Reading several probes of a batch in one pass over the network."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_gradood.core import NotFinite, generator_states, graphs_kept, restore_generators
from lightning_gradood.gradients import norms_with_graph, probe_gradients
from lightning_gradood.probes.feature_probes import FeatureLayerProbe, read_layers
from lightning_gradood.probes.probe import GradientProbe, LogitsProbe, Probe, SharedLogitsProbe


@dataclass(frozen=True)
class ProbeReadings:
    """Values by probe name, [N, width] each, names of their columns, and the logits [N, classes] for predictions."""

    values: dict[str, Tensor]
    names: dict[str, list[str]]
    logits: Tensor


def read_probes(probes: Sequence[Probe], network: nn.Module, images: Tensor) -> ProbeReadings:
    """Read probes that can share work together, the others one after the other; arguments as for `Probe.__call__`.

    Gradient probes share one forward pass, whose logits also serve the logits probe; so do those that read feature
    layers. Probes that start from the logits get them from one of these passes.
    """
    gradient_probes = [probe for probe in probes if isinstance(probe, GradientProbe)]
    layer_probes = [probe for probe in probes if isinstance(probe, FeatureLayerProbe)]
    values: dict[str, Tensor] = {}
    layer_names: dict[str, list[str]] = {}
    logits: Tensor | None = None
    if gradient_probes:
        read = norms_with_graph if graphs_kept() else probe_gradients
        norms, logits = read(network, images, [probe.label_design for probe in gradient_probes])
        columns = norms.chunk(len(gradient_probes), dim=1)
        values |= {probe.name: part for probe, part in zip(gradient_probes, columns, strict=True)}
    if layer_probes:
        layer_logits, parts, columns_of = read_layers(layer_probes, network, images)
        logits = layer_logits if logits is None else logits
        values |= {probe.name: part for probe, part in zip(layer_probes, parts, strict=True)}
        layer_names = {probe.name: part for probe, part in zip(layer_probes, columns_of, strict=True)}
    if logits is None:
        logits = LogitsProbe()(network, images)
    for probe in probes:
        if isinstance(probe, LogitsProbe):
            values[probe.name] = logits
        elif isinstance(probe, SharedLogitsProbe):
            values[probe.name] = probe.from_logits(network, images, logits)
        elif probe.name not in values:
            values[probe.name] = probe(network, images)
    names = {probe.name: probe.names(network) for probe in probes} | layer_names
    return ProbeReadings({probe.name: values[probe.name] for probe in probes}, names, logits)


def try_probes(probes: Sequence[Probe], network: nn.Module, images: Tensor) -> None:
    """Read a few images, float [N, C, H, W], to refuse a network that a probe does not fit.

    Left out are probes that need training images, and gradient probes, which look for themselves in their first batch.
    """
    ready = [probe for probe in probes if not probe.needs_preparation and not isinstance(probe, GradientProbe)]
    generators = generator_states()
    try:
        with suppress(NotFinite):  # handled where all images are read
            read_probes(ready, network, images)
    finally:
        restore_generators(generators)
