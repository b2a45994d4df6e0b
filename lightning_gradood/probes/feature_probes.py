"""Probes of feature layers, which share one forward pass, and the reading of several probes of a batch together."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    NotFinite,
    check_finite_rows,
    generator_states,
    graphs_kept,
    reading,
    restore_generators,
)
from lightning_gradood.gradients import norms_with_graph, probe_gradients
from lightning_gradood.probes.feature_layers import PENULTIMATE, feature_layer_moments, feature_layer_names
from lightning_gradood.probes.probe import GradientProbe, LogitsProbe, Probe, SharedLogitsProbe
from lightning_gradood.records import NORMAL, Records


class FeatureLayerProbe(Probe):
    """Computes its values from logits and feature layers; `read_probes` runs one forward pass for all of this kind."""

    spread: ClassVar[bool] = False
    """Whether standard deviations are wanted beside averages."""

    @abstractmethod
    def layers_of(self, network: nn.Module, images: Tensor) -> list[str]:
        """The feature layers it needs of these images, [N, C, H, W], as `feature_layer_outputs` names them."""

    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Compute the values, [N, width], from logits [N, classes]; the network is in evaluation mode and frozen.

        Args:
            layers: for each of `layers_of(network, images)` the averages [N, C_i]; where `spread` is true, behind them the
                standard deviations over the same places, [N, C_i] or, of an output [N, C_i], none.

        Returns:
            The layers side by side, if not overridden.
        """
        return torch.cat(list(layers), dim=1)

    def names_in(self, network: nn.Module, widths: Mapping[str, int]) -> list[str]:
        """Names of the values, as `names`, for feature layers of these widths, which only a reading tells."""
        return self.names(network)

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        return read_layers([self], network, images)[1][0]


def read_layers(
    probes: Sequence[FeatureLayerProbe], network: nn.Module, images: Tensor
) -> tuple[Tensor, list[Tensor], list[list[str]]]:
    """Read feature layer probes in one forward pass; a Refusal if a logit or a feature is not finite.

    Returns:
        Logits [N, classes], and for each probe its values [N, width] and their names.
    """
    wanted = [probe.layers_of(network, images) for probe in probes]
    layers = list(dict.fromkeys(name for part in wanted for name in part))
    values, names = [], []
    with reading(network):
        logits, moments = feature_layer_moments(network, images, layers, any(probe.spread for probe in probes))
        check_finite_rows(logits, "The network's logits")
        found = dict(zip(layers, moments, strict=True))
        for name, (average, _) in found.items():
            check_finite_rows(average, f"The network's features in {name!r}")
        for probe, part in zip(probes, wanted, strict=True):
            read = [torch.cat(found[name], 1) if probe.spread else found[name][0] for name in part]
            values.append(probe.from_layers(network, logits, read))
            widths = {name: one.shape[1] for name, one in zip(part, read, strict=True)}
            names.append(probe.names_in(network, widths))
    return logits, values, names


@dataclass(frozen=True)
class FeatureProbe(FeatureLayerProbe):
    """Spatial averages of the network's feature layers, side by side, [N, ΣC_i], in the network's dtype.

    A reading names its columns `<feature layer>.<channel>`, see `columns_by_layer`.

    Args:
        layers: modules, each once, as in `network.named_modules()`, or `penultimate`; see `feature_layer_names`.

    Reference:
        deep_Mahalanobis (Lee et al. 2018), `lib_generation.py`.
    """

    layers: Sequence[str] | None = None
    version: ClassVar[int] = 2

    @property
    @override
    def name(self) -> str:
        return "features/" + ("+".join(self.layers) if self.layers else "layers")

    @override
    def layers_of(self, network: nn.Module, images: Tensor) -> list[str]:
        return list(self.layers) if self.layers else feature_layer_names(network, images)

    @override
    def names_in(self, network: nn.Module, widths: Mapping[str, int]) -> list[str]:
        return [f"{layer}.{channel}" for layer, width in widths.items() for channel in range(width)]


@dataclass(frozen=True)
class FeatureSpreadProbe(FeatureProbe):
    """Averages, then standard deviations, of the channels of each feature layer, [N, up to 2·ΣC_i].

    A deviation says whether a feature is somewhere in the image or everywhere in it, which the average does not.
    """

    spread: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"{super().name}+spread"

    @override
    def names_in(self, network: nn.Module, widths: Mapping[str, int]) -> list[str]:
        return []


@dataclass(frozen=True)
class PenultimateProbe(FeatureLayerProbe):
    """The penultimate features, [N, D]: the input of the last nn.Linear or convolution that a forward pass runs."""

    name: ClassVar[str] = f"features/{PENULTIMATE}"

    @override
    def layers_of(self, network: nn.Module, images: Tensor) -> list[str]:
        return [PENULTIMATE]


def columns_by_layer(names: Sequence[str]) -> dict[str, list[int]]:
    """Say which columns of a `FeatureProbe` belong to which feature layer, layers in order of appearance.

    >>> columns_by_layer(["relu.0", "relu.1", "layer1.0"])
    {'relu': [0, 1], 'layer1': [2]}
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name.rpartition(".")[0], []).append(column)
    return columns


@dataclass(frozen=True)
class ProbeReadings:
    """Values by probe name, [N, width] each, names of their columns, and the logits [N, classes] for predictions."""

    values: dict[str, Tensor]
    names: dict[str, list[str]]
    logits: Tensor

    def records(self) -> Records:
        """The values, without a graph, as records of normal images `image/0`, `image/1`, … and their predicted classes."""
        values = {name: one.detach().cpu().numpy() for name, one in self.values.items()}
        predictions = self.logits.argmax(dim=1).tolist()
        return Records.build(
            [f"image/{row}" for row in range(len(predictions))], source=NORMAL, values=values, prediction=predictions
        )


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
