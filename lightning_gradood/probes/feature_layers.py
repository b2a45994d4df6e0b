"""Feature layers: the places inside a network whose spatially averaged outputs are read as features."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal

PENULTIMATE = "penultimate"
"""The feature layer that is no module: the input of the last nn.Linear that a forward pass runs."""


def feature_layer_names(network: nn.Module) -> list[str]:
    """Name the feature layers at which a network is read by default.

    ResNets, found by their children `relu` and `layer1`: the stem after its activation and every stage. DenseNets,
    found by `conv0` and `denseblock1`: the stem, every transition, and the penultimate features, which are the last
    block after its norm and activation. Of any other network: the children that have parameters and stand before the
    one with the last nn.Linear, and the penultimate features; wrappers around a single child are looked through.

    Args:
        network: pixels in, logits out.

    Returns:
        Names as in `network.named_modules()`, or `penultimate`, in the order in which they are registered.

    Raises:
        Refusal: if no rule finds any.

    Reference:
        deep_Mahalanobis (Lee et al. 2018), `feature_list` of its ResNet and DenseNet.

    Example:
        >>> from torchvision.models import resnet18
        >>> feature_layer_names(resnet18(weights=None))
        ['relu', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    for name, module in network.named_modules():
        children = dict(module.named_children())
        if {"relu", "layer1"} <= set(children):
            return _below(name, ["relu", *_numbered("layer", children)])
        if {"conv0", "denseblock1"} <= set(children):
            stem = "relu0" if "relu0" in children else "conv0"
            return [*_below(name, [stem, *_numbered("transition", children)]), PENULTIMATE]
    return _general_layers(network)


def checked_layers(layers: Sequence[str] | None) -> tuple[str, ...] | None:
    """A setting `layers`, None for the default ones; a Refusal if it names no module, or one twice."""
    if layers is not None and (not layers or len(set(layers)) < len(layers)):
        raise Refusal(
            f"`layers` should name different modules, at least one. Got `layers = {list(layers)}`. Leave it out."
        )
    return None if layers is None else tuple(layers)


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
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """As `feature_layer_outputs`, and beside averages [N, C_i] the standard deviations over the same axes.

    Deviations are [N, C_i], or [N, 0] without `spread` or where the output has no axes to average over.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    for name in names:
        if name != PENULTIMATE and name not in modules:
            raise Refusal(
                f"`layers` should be modules of the network, or {PENULTIMATE}. Got `layers = {list(names)}` with {name!r}. "
                f"Its children are {[child for child, _ in network.named_children()]}; leave `layers` out for "
                "the usual ones."
            )
    found: dict[str, list[_Moments]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name in found:
            if name == PENULTIMATE:
                stack.enter_context(_keeping_inputs(network, found[name], spread))
            else:
                stack.enter_context(_keeping_outputs(modules[name], name, found[name], spread))
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


def _numbered(prefix: str, children: dict[str, nn.Module]) -> list[str]:
    return [name for name in children if re.fullmatch(rf"{prefix}\d+", name)]


_Moments = tuple[Tensor, Tensor]  # averages and standard deviations


@contextmanager
def _keeping_outputs(module: nn.Module, name: str, kept: list[_Moments], spread: bool) -> Iterator[None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(_moments(name, output, spread))  # at once: a layer that follows may overwrite its input

    handle = module.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _keeping_inputs(network: nn.Module, kept: list[_Moments], spread: bool) -> Iterator[None]:
    """Keep the input of that nn.Linear which runs last."""

    def keep(module: nn.Module, args: Any) -> None:
        kept[:] = [_moments(PENULTIMATE, args[0], spread)]

    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_pre_hook(keep).remove)
        yield


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
    if len(kept) == 1 and len(kept[0][0]) == images:
        return kept[0]
    if not kept and name == PENULTIMATE:
        raise Refusal(
            "The network should end in an nn.Linear, whose input are its penultimate features. Got a network that runs "
            "none. Leave out what reads them, and name modules with `layers`."
        )
    got = f"{len(kept)} outputs" if len(kept) != 1 else f"{len(kept[0][0])} rows"
    raise Refusal(
        f"`layers` should be modules that run once on a batch and give a row for each of its {images} images. Got {got} "
        f"from {name!r}. Name another module."
    )
