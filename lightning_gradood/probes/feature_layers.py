"""Feature layers, the places inside a network whose spatially averaged outputs are read as features, and their probes."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, check_finite_rows, exact_arithmetic, frozen_network
from lightning_gradood.probes.probe import Probe

PENULTIMATE = "penultimate"
"""The feature layer that is no module: the input of the last nn.Linear that a forward pass runs."""

_Moments = tuple[Tensor, Tensor]  # averages and standard deviations


def feature_layer_names(network: nn.Module) -> list[str]:
    """Name the feature layers at which a network is read by default.

    ResNets, found by their children `relu` and `layer1`: the stem after its activation and every stage. DenseNets,
    found by `conv0` and `denseblock1`: the stem, every transition, and the penultimate features, which are the last
    block after its norm and activation. Of any other network: the children that have parameters and stand before the
    one with the last nn.Linear, and the penultimate features; wrappers around a single child are looked through.

    Returns:
        Names as in `network.named_modules()`, or `penultimate`, in the order in which they are registered.

    Reference:
        deep_Mahalanobis (Lee et al. 2018), `feature_list` of its ResNet and DenseNet.

    Example:
        >>> from torchvision.models import resnet18
        >>> feature_layer_names(resnet18(weights=None))
        ['relu', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    for name, module in network.named_modules():
        children = [child for child, _ in module.named_children()]
        if {"relu", "layer1"} <= set(children):
            return _below(name, ["relu", *_numbered("layer", children)])
        if {"conv0", "denseblock1"} <= set(children):
            stem = "relu0" if "relu0" in children else "conv0"
            return [*_below(name, [stem, *_numbered("transition", children)]), PENULTIMATE]
    return _general_layers(network)


def feature_layer_outputs(network: nn.Module, images: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Run one forward pass and return the logits and what the feature layers gave.

    Outputs [N, C, ...] are averaged over all but their first two axes, tokens [N, T, C] over T; [N, C] stays. Gradients
    flow to images and parameters where they are enabled. Mode, autocast and the rest are the caller's: enter
    `exact_arithmetic()` and `frozen_network(network)` first.

    Args:
        network: pixels in, logits out; its hooks are as before afterwards.
        images: pixels in [0, 1], [N, C, H, W].
        names: modules as in `network.named_modules()`, or `penultimate`.

    Returns:
        The network's output and for each name the averages [N, C_i], in the network's dtype.

    Raises:
        Refusal: if a name is no module, or its module does not give one tensor for the batch.
    """
    logits, moments = feature_layer_moments(network, images, names)
    return logits, [average for average, _ in moments]


def feature_layer_moments(
    network: nn.Module, images: Tensor, names: Sequence[str], spread: bool = False
) -> tuple[Tensor, list[_Moments]]:
    """As `feature_layer_outputs`, and beside averages [N, C_i] the standard deviations over the same axes.

    Deviations are [N, C_i], or [N, 0] without `spread` or where the output has no axes to average over.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    found: dict[str, list[_Moments]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name, kept in found.items():
            if name == PENULTIMATE:
                hook = partial(_keep_input, kept, spread)
                linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
                handles = [linear.register_forward_pre_hook(hook) for linear in linears]
            elif name in modules:
                handles = [modules[name].register_forward_hook(partial(_keep_output, name, kept, spread))]
            else:
                raise Refusal(
                    f"`layers` should be modules of the network, or {PENULTIMATE}. Got {name!r}. Its children are "
                    f"{[child for child, _ in network.named_children()]}; leave `layers` out for the usual ones."
                )
            for handle in handles:
                stack.callback(handle.remove)
        logits = network(images)
    return logits, [_only(name, found[name], len(images)) for name in names]


def feature_layer_output(network: nn.Module, images: Tensor, name: str) -> Tensor:
    """What `feature_layer_outputs` gives for one feature layer, running the network no further than that.

    It does not notice a layer that runs twice: read the network with `feature_layer_outputs` before.
    """
    if name == PENULTIMATE:  # which nn.Linear is the last is known at the end
        return feature_layer_outputs(network, images, [name])[1][0]

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(_moments(name, output, spread=False)[0])

    handle = network.get_submodule(name).register_forward_hook(stop)
    try:
        network(images)
    except _Reached as reached:
        return reached.values
    finally:
        handle.remove()
    raise RuntimeError(f"{name!r} did not run.")


class _Reached(BaseException):
    """Raised to end a forward pass once all layers were read. Not an `Exception`, as networks may catch those."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


def _general_layers(network: nn.Module) -> list[str]:
    name, body = _body(network)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    layers = []
    for child, module in body.named_children():
        if linears and any(inner is linears[-1] for inner in module.modules()):
            break
        if any(True for _ in module.parameters()):
            layers.append(child)
    layers = _below(name, layers) + [PENULTIMATE] * bool(linears)
    if not layers:
        raise Refusal(
            f"The network should have children with parameters or an nn.Linear. Got a {type(network).__name__} with "
            "neither. Name the modules to read with `layers`."
        )
    return layers


def _body(network: nn.Module) -> tuple[str, nn.Module]:
    """Look through wrappers: modules whose parameters all lie in one child."""
    name, body = "", network
    while True:
        inner = [(child, module) for child, module in body.named_children() if any(True for _ in module.parameters())]
        if len(inner) != 1 or any(True for _ in body.parameters(recurse=False)):
            return name, body
        name, body = _below(name, [inner[0][0]])[0], inner[0][1]


def _below(prefix: str, names: Sequence[str]) -> list[str]:
    return [f"{prefix}.{name}" if prefix else name for name in names]


def _numbered(prefix: str, children: Sequence[str]) -> list[str]:
    return [name for name in children if re.fullmatch(rf"{prefix}\d+", name)]


def _keep_output(name: str, kept: list[_Moments], spread: bool, module: nn.Module, args: Any, output: Any) -> None:
    kept.append(_moments(name, output, spread))  # at once: a layer that follows may overwrite its input


def _keep_input(kept: list[_Moments], spread: bool, module: nn.Module, args: Any) -> None:
    kept[:] = [_moments(PENULTIMATE, args[0], spread)]  # of the nn.Linear that runs last


def _moments(name: str, output: Any, spread: bool) -> _Moments:
    if not isinstance(output, Tensor) or output.ndim < 2:
        kind = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise Refusal(f"`layers` should give a tensor [N, C, ...] each. Got {kind} from {name!r}. Name another module.")
    if output.ndim == 2:
        return output.clone(), output[:, :0]
    places = output.mT if output.ndim == 3 else output.flatten(2)  # [N, C, places]
    average = output.mean(dim=1) if output.ndim == 3 else places.mean(dim=2)
    if not spread:
        return average, average[:, :0]
    # torch's own `std` takes some fifteen times as long on a CPU
    return average, torch.linalg.vector_norm(places - average.unsqueeze(2), dim=2) / places.shape[2] ** 0.5


def _only(name: str, kept: list[_Moments], images: int) -> _Moments:
    rows = [len(average) for average, _ in kept]
    if rows != [images]:
        raise Refusal(
            f"`layers` should be modules that run once on a batch and give a row for each of its {images} images; "
            f"`{PENULTIMATE}` is the input of the last nn.Linear. Got outputs with {rows} rows from {name!r}. "
            "Name another module."
        )
    return kept[0]


class FeatureLayerProbe(Probe):
    """Computes its values from logits and feature layers; `read_probes` runs one forward pass for all of this kind."""

    spread: ClassVar[bool] = False
    """Whether standard deviations are wanted beside averages."""

    @abstractmethod
    def layers_of(self, network: nn.Module) -> list[str]:
        """The feature layers it needs, as `feature_layer_outputs` names them."""

    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Compute the values, [N, width], from logits [N, classes]; the network is in evaluation mode and frozen.

        Args:
            layers: for each of `layers_of(network)` the averages [N, C_i]; where `spread` is true, behind them the
                standard deviations over the same places, [N, C_i] or, of an output [N, C_i], none.

        Returns:
            The layers side by side, if not overridden.
        """
        return torch.cat(list(layers), dim=1)

    def names_in(self, network: nn.Module, widths: Sequence[int]) -> list[str]:
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
    wanted = [probe.layers_of(network) for probe in probes]
    layers = list(dict.fromkeys(name for part in wanted for name in part))
    values, names = [], []
    with exact_arithmetic(), frozen_network(network), torch.no_grad():
        logits, moments = feature_layer_moments(network, images, layers, any(probe.spread for probe in probes))
        check_finite_rows(logits, "The network's logits")
        found = dict(zip(layers, moments, strict=True))
        for name, (average, _) in found.items():
            check_finite_rows(average, f"The network's features in {name!r}")
        for probe, part in zip(probes, wanted, strict=True):
            read = [torch.cat(found[name], 1) if probe.spread else found[name][0] for name in part]
            values.append(probe.from_layers(network, logits, read))
            names.append(probe.names_in(network, [one.shape[1] for one in read]))
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

    @property
    @override
    def name(self) -> str:
        return "features/" + ("+".join(self.layers) if self.layers else "layers")

    @override
    def layers_of(self, network: nn.Module) -> list[str]:
        return list(self.layers) if self.layers else feature_layer_names(network)

    @override
    def names_in(self, network: nn.Module, widths: Sequence[int]) -> list[str]:
        pairs = zip(self.layers_of(network), widths, strict=True)
        return [f"{layer}.{channel}" for layer, width in pairs for channel in range(width)]


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
    def names_in(self, network: nn.Module, widths: Sequence[int]) -> list[str]:
        return []


@dataclass(frozen=True)
class PenultimateProbe(FeatureLayerProbe):
    """The penultimate features, [N, D]: the input of the last nn.Linear that a forward pass runs."""

    name: ClassVar[str] = f"features/{PENULTIMATE}"

    @override
    def layers_of(self, network: nn.Module) -> list[str]:
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
