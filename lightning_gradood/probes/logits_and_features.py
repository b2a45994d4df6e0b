"""Probes that need one forward pass: logits, and spatial averages of feature layers."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, check_finite_rows, exact_arithmetic, frozen_network
from lightning_gradood.probes.feature_layers import PENULTIMATE, feature_layer_moments, feature_layer_names
from lightning_gradood.probes.probe import Probe


class LogitsProbe(Probe):
    """The network's logits in evaluation mode, [N, classes], in its dtype."""

    @property
    @override
    def name(self) -> str:
        return "logits"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return []  # the first reading counts the classes

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        with exact_arithmetic(), frozen_network(network), torch.no_grad():
            logits: Tensor = network(images)
        check_finite_rows(logits, "The network's logits")
        return logits


class SharedLogitsProbe(Probe):
    """Computes its values from images and their logits, which `read_probes` shares among probes."""

    @abstractmethod
    def from_logits(self, network: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        """Compute the values, [N, width], from images, as for `Probe.__call__`, and their logits, [N, classes]."""

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        return self.from_logits(network, images, LogitsProbe()(network, images))


class FeatureLayerProbe(Probe):
    """Computes its values from logits and feature layers; `read_probes` runs one forward pass for all of this kind."""

    spread: bool = False
    """Whether standard deviations are wanted beside averages."""

    @abstractmethod
    def layers_of(self, network: nn.Module) -> list[str]:
        """The feature layers it needs, as `feature_layer_outputs` names them."""

    @abstractmethod
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Compute the values, [N, width], from logits [N, classes]; the network is in evaluation mode and frozen.

        Args:
            layers: for each of `layers_of(network)` the averages [N, C_i]; where `spread` is true, behind them the
                standard deviations over the same places, [N, C_i] or, of an output [N, C_i], none.
        """

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        return read_layers([self], network, images)[1][0]


def read_layers(probes: Sequence[FeatureLayerProbe], network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Read feature layer probes in one forward pass: logits [N, classes], and the values [N, width] of each probe.

    A Refusal if a logit or a feature is not finite.
    """
    wanted = [probe.layers_of(network) for probe in probes]
    names = list(dict.fromkeys(name for part in wanted for name in part))
    with exact_arithmetic(), frozen_network(network), torch.no_grad():
        logits, moments = feature_layer_moments(network, images, names, any(probe.spread for probe in probes))
        check_finite_rows(logits, "The network's logits")
        found = dict(zip(names, moments, strict=True))
        for name, (average, _) in found.items():
            check_finite_rows(average, f"The network's features in {name!r}")
        values = [
            probe.from_layers(
                network, logits, [torch.cat(found[name], 1) if probe.spread else found[name][0] for name in part]
            )
            for probe, part in zip(probes, wanted, strict=True)
        ]
    return logits, values


class FeatureProbe(FeatureLayerProbe):
    """Spatial averages of the network's feature layers, side by side, [N, ΣC_i], in the network's dtype.

    Args:
        layers: modules, each once, as in `network.named_modules()`, or `penultimate`; see `feature_layer_names`.

    Reference:
        deep_Mahalanobis (Lee et al. 2018), `lib_generation.py`.
    """

    def __init__(self, layers: list[str] | None = None) -> None:
        if layers is not None and (not layers or len(set(layers)) < len(layers)):
            raise Refusal(
                f"`layers` should name different modules, at least one. Got `layers = {layers}`. Leave it out for the usual ones."
            )
        self.layers = layers
        self._widths: dict[str, int] = {}

    @property
    @override
    def name(self) -> str:
        return "features/" + ("layers" if self.layers is None else "+".join(self.layers))

    def names(self, network: nn.Module) -> list[str]:
        """`<feature layer>.<channel>` for each column of the last reading, which counts channels; empty before it."""
        return [f"{layer}.{channel}" for layer, width in self._widths.items() for channel in range(width)]

    @override
    def layers_of(self, network: nn.Module) -> list[str]:
        return feature_layer_names(network) if self.layers is None else list(self.layers)

    @override
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        self._widths = {name: layer.shape[1] for name, layer in zip(self.layers_of(network), layers, strict=True)}
        return torch.cat(list(layers), dim=1)


class FeatureSpreadProbe(FeatureLayerProbe):
    """Averages, then standard deviations, of the channels of each feature layer, [N, up to 2·ΣC_i].

    A deviation says whether a feature is somewhere in the image or everywhere in it, which the average does not.

    Args:
        layers: as for `FeatureProbe`.
    """

    spread = True

    def __init__(self, layers: list[str] | None = None) -> None:
        self._averages = FeatureProbe(layers)
        self.layers = layers

    @property
    @override
    def name(self) -> str:
        return f"{self._averages.name}+spread"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return []

    @override
    def layers_of(self, network: nn.Module) -> list[str]:
        return self._averages.layers_of(network)

    @override
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(layers), dim=1)


class PenultimateProbe(FeatureLayerProbe):
    """The penultimate features, [N, D]: the input of the last nn.Linear that a forward pass runs."""

    @property
    @override
    def name(self) -> str:
        return f"features/{PENULTIMATE}"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return []

    @override
    def layers_of(self, network: nn.Module) -> list[str]:
        return [PENULTIMATE]

    @override
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        return layers[0]


def columns_by_layer(names: Sequence[str]) -> dict[str, list[int]]:
    """Say which columns of a `FeatureProbe` belong to which feature layer, layers in order of appearance.

    Args:
        names: `<feature layer>.<channel>`, as records keep them.

    Example:
        >>> columns_by_layer(["relu.0", "relu.1", "layer1.0"])
        {'relu': [0, 1], 'layer1': [2]}
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name.rpartition(".")[0], []).append(column)
    return columns
