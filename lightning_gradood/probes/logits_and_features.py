"""Probes that need one forward pass: logits, and spatial averages of feature layers."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, check_finite_rows, exact_arithmetic, frozen_network
from lightning_gradood.probes.feature_layers import PENULTIMATE, feature_layer_moments, feature_layer_names
from lightning_gradood.probes.probe import Probe


class LogitsProbe(Probe):
    """The network's logits in evaluation mode."""

    @property
    def name(self) -> str:
        """`logits`."""
        return "logits"

    def names(self, network: nn.Module) -> list[str]:
        """Empty: the classes are counted by the first reading."""
        return []

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Logits [N, classes] in the network's dtype.

        Raises:
            Refusal: if a logit is not finite.
        """
        with exact_arithmetic(), frozen_network(network), torch.no_grad():
            logits: Tensor = network(images)
        check_finite_rows(logits, "The network's logits")
        return logits


class SharedLogitsProbe(Probe):
    """Computes its values from images and their logits; `read_probes` gives it those of a pass that others need too."""

    @abstractmethod
    def from_logits(self, network: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        """Its values, [N, width].

        Args:
            network: pixels in, logits out; left as it was found.
            images: pixels in [0, 1], [N, C, H, W].
            logits: the network's output for them, [N, classes].
        """

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run a forward pass in evaluation mode, and what else the probe needs, [N, width]."""
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
        """Its values, [N, width].

        Args:
            network: pixels in, logits out, in evaluation mode and frozen.
            logits: the network's output, [N, classes].
            layers: for each of `layers_of(network)` the averages [N, C_i]; where `spread` is true, behind them the standard
                deviations over the same places, [N, C_i] or, of an output [N, C_i], none.
        """

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run a forward pass in evaluation mode and read it, [N, width]."""
        return read_layers([self], network, images)[1][0]


def read_layers(probes: Sequence[FeatureLayerProbe], network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Read several feature layer probes in one forward pass.

    Args:
        probes: what to read.
        network: pixels in, logits out; left as it was found.
        images: pixels in [0, 1], [N, C, H, W].

    Returns:
        Logits [N, classes] and for each probe its values [N, width].

    Raises:
        Refusal: if a logit or a feature is not finite.
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
    """Spatial averages of the network's feature layers, side by side.

    Args:
        layers: modules of the network, as in `network.named_modules()`, or `penultimate`; by default those of
            `feature_layer_names`.

    Raises:
        Refusal: if `layers` is empty or names one twice.

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
    def name(self) -> str:
        """`features/layers`, or `features/` and the feature layers that the user named, joined by `+`."""
        return "features/" + ("layers" if self.layers is None else "+".join(self.layers))

    def names(self, network: nn.Module) -> list[str]:
        """`<feature layer>.<channel>` for each column of the last reading; empty before the first, as only a pass counts
        channels.
        """
        return [f"{layer}.{channel}" for layer, width in self._widths.items() for channel in range(width)]

    def layers_of(self, network: nn.Module) -> list[str]:
        """Those the user named, or the usual ones."""
        return feature_layer_names(network) if self.layers is None else list(self.layers)

    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Averages [N, ΣC_i], in the network's dtype."""
        self._widths = {name: layer.shape[1] for name, layer in zip(self.layers_of(network), layers, strict=True)}
        return torch.cat(list(layers), dim=1)


class FeatureSpreadProbe(FeatureLayerProbe):
    """Averages and standard deviations of the channels of the network's feature layers.

    A deviation says whether a feature is somewhere in the image or everywhere in it, which the average does not.

    Args:
        layers: as for `FeatureProbe`.
    """

    spread = True

    def __init__(self, layers: list[str] | None = None) -> None:
        self._averages = FeatureProbe(layers)
        self.layers = layers

    @property
    def name(self) -> str:
        """That of a `FeatureProbe`, and `+spread`."""
        return f"{self._averages.name}+spread"

    def names(self, network: nn.Module) -> list[str]:
        """Empty: they are counted by the first reading."""
        return []

    def layers_of(self, network: nn.Module) -> list[str]:
        """Those the user named, or the usual ones."""
        return self._averages.layers_of(network)

    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Layer by layer averages and then deviations, [N, up to 2·ΣC_i], in the network's dtype."""
        return torch.cat(list(layers), dim=1)


class PenultimateProbe(FeatureLayerProbe):
    """The penultimate features: the input of the last nn.Linear that a forward pass runs."""

    @property
    def name(self) -> str:
        """`features/penultimate`."""
        return f"features/{PENULTIMATE}"

    def names(self, network: nn.Module) -> list[str]:
        """Empty: they are counted by the first reading."""
        return []

    def layers_of(self, network: nn.Module) -> list[str]:
        """`penultimate`."""
        return [PENULTIMATE]

    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Features [N, D], in the network's dtype."""
        return layers[0]


def columns_by_layer(names: Sequence[str]) -> dict[str, list[int]]:
    """Say which columns of a `FeatureProbe` belong to which feature layer.

    Args:
        names: `<feature layer>.<channel>`, as records keep them.

    Returns:
        Layer to its columns, feature layers in order of appearance.

    Example:
        >>> columns_by_layer(["relu.0", "relu.1", "layer1.0"])
        {'relu': [0, 1], 'layer1': [2]}
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name.rpartition(".")[0], []).append(column)
    return columns
