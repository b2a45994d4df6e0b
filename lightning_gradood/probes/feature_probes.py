"""Probes of feature layers, which share one forward pass."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import check_finite_rows, reading
from lightning_gradood.probes.feature_layers import PENULTIMATE, feature_layer_moments, feature_layer_names
from lightning_gradood.probes.probe import Probe


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
