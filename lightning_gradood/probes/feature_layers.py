"""Feature layers, the places inside a network whose spatially averaged outputs are read as features."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import HALF, Refusal, reading, say, to_float64
from lightning_gradood.records import LinearHead

PENULTIMATE = "penultimate"
"""The feature layer that is no module: the input of the last nn.Linear or convolution that a forward pass runs."""

_Moments = tuple[Tensor, Tensor]  # averages and standard deviations
_HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_WIDTHS = ("out_features", "out_channels", "num_features", "num_channels", "normalized_shape")  # of layers of torch
_usual: WeakKeyDictionary[nn.Module, tuple[list[str], str | None]] = WeakKeyDictionary()  # feature layers and head


def feature_layer_names(network: nn.Module, images: Tensor) -> list[str]:
    """Name the feature layers at which a network is read by default; the first call for a network runs it once.

    ResNets, found by their children `relu` and `layer1`: the stem after its activation and every stage. DenseNets,
    found by `conv0` and `denseblock1`: the stem, every transition, and the penultimate features, which are the last
    block after its norm and activation. Of any other network: the children with parameters that run once before its
    head, and the penultimate features where they are not the averages of one of these. Of a child that gives no single
    tensor or does not run itself, its own children; of a ModuleList's neighbours with outputs of one shape, which are a
    stage, the last. Wrappers around a single child are looked through.

    Args:
        network: pixels in, logits out; left as it was found.
        images: pixels in [0, 1], [N, C, H, W].

    Returns:
        Names as in `network.named_modules()`, or `penultimate`, in the order in which they are registered.

    Raises:
        Refusal: if no layer with parameters runs before the head.

    Reference:
        deep_Mahalanobis (Lee et al. 2018), `feature_list` of its ResNet and DenseNet.

    Examples:
        >>> from torchvision.models import resnet18
        >>> feature_layer_names(resnet18(weights=None), torch.rand(1, 3, 32, 32))
        ['relu', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    layers, _ = _usual_of(network, images)
    if not layers:
        raise Refusal(
            f"The network should run layers with parameters before its logits. Got a {type(network).__name__} without. "
            "Name the modules to read with `layers`."
        )
    return layers


def feature_layer_outputs(network: nn.Module, images: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Run one forward pass and return the logits and what the feature layers gave.

    Outputs [N, C, ...] are averaged over all but their first two axes, tokens [N, T, C] over T, and channels-last maps
    [N, H, W, C] over H and W; [N, C] stays. The last layer within a module that has channels tells which axis they are;
    of a tuple or list the first tensor counts.
    Gradients flow to images and parameters where they are enabled. Mode, autocast and the rest are the caller's: enter
    `frozen_network(network)` first.

    Args:
        network: pixels in, logits out; its hooks are as before afterwards.
        images: pixels in [0, 1], [N, C, H, W].
        names: modules as in `network.named_modules()`, or `penultimate`.

    Returns:
        The network's output and for each name the averages [N, C_i], in the layer's dtype, float32 for half precision.

    Raises:
        Refusal: if a name is no module, or its module does not give a tensor for the batch.
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
    head = _usual_of(network, images)[1] if PENULTIMATE in names else None
    found: dict[str, list[_Moments]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name, kept in found.items():
            if name == PENULTIMATE:
                hook = partial(_keep_input, kept, spread)
                handles = [] if head is None else [modules[head].register_forward_pre_hook(hook)]
            elif name in modules:
                handles = [modules[name].register_forward_hook(partial(_keep_output, name, kept, spread))]
            else:
                raise _no_layer(network, name)
            for handle in handles:
                stack.callback(handle.remove)
        logits = network(images)
    return logits, [_only(name, found[name], images.shape[0]) for name in names]


def feature_layer_output(network: nn.Module, images: Tensor, name: str) -> Tensor:
    """What `feature_layer_outputs` gives for one feature layer, running the network no further than that.

    It does not notice a layer that runs twice: read the network with `feature_layer_outputs` before.
    """
    if name == PENULTIMATE:  # which layer is the last is known at the end
        return feature_layer_outputs(network, images, [name])[1][0]

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(_moments(name, module, output, spread=False)[0])

    handle = network.get_submodule(name).register_forward_hook(stop)
    try:
        network(images)
    except _Reached as reached:
        return reached.values
    finally:
        handle.remove()
    raise RuntimeError(f"{name!r} did not run.")


def feature_layer_gradient(
    network: nn.Module, images: Tensor, name: str, logit_gradient: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Sums over places of a feature layer's output and of the gradient by it, both [N, C].

    Args:
        network, images, name: as for `feature_layer_outputs`; the layer's output must be a tensor.
        logit_gradient: the gradient by the logits, [N, classes] of float64 logits [N, classes].
    """
    modules, found = dict(network.named_modules(remove_duplicate=False)), list[tuple[Tensor, Tensor]]()
    place = (_usual_of(network, images)[1] or "") if name == PENULTIMATE else name
    if place not in modules:
        raise _no_layer(network, name)

    def shift(module: nn.Module, args: Any, output: Any = None) -> Any:
        """Add a number to each channel, 0: the gradient by it is the sum of the gradients over the channel's places."""
        values, given = (args[0], True) if output is None else (output, False)
        average, _ = _moments(name, module, values, spread=False, given=given)
        last = isinstance(module, nn.Linear) if given else _channels_last(module, values.shape)
        added, ones = torch.zeros_like(average, requires_grad=True), (1,) * (values.ndim - 2)
        found[:] = [(average.detach() * (values[0].numel() // average.shape[1]), added)]
        moved = values + added.reshape((len(added), *ones, -1) if last else (len(added), -1, *ones))
        return (moved, *args[1:]) if given else moved

    module = modules[place]
    handle = module.register_forward_pre_hook(shift) if name == PENULTIMATE else module.register_forward_hook(shift)
    try:
        logits = network(images)
    finally:
        handle.remove()
    ((sums, added),) = found or [_only(name, [], len(images))]
    (gradient,) = torch.autograd.grad(logits, added, logit_gradient(to_float64(logits.detach())).to(logits))
    return sums, gradient


def linear_head(network: nn.Module, images: Tensor) -> LinearHead:
    """The network's last layer, where logits are penultimate features · weightᵀ + bias.

    Args:
        network: pixels in, logits out; left as it was found.
        images: a few, on which this is tried, pixels in [0, 1], [N, C, H, W].

    Raises:
        Refusal: if logits are anything else, as where an activation follows the layer, or several layers add up.

    Examples:
        >>> from torchvision.models import resnet18
        >>> linear_head(resnet18(weights=None).eval(), torch.rand(2, 3, 32, 32)).weight.shape
        (1000, 512)
    """
    with reading(network):
        logits, (features,) = feature_layer_outputs(network, images, [PENULTIMATE])
        layer = dict(network.named_modules(remove_duplicate=False)).get(_usual_of(network, images)[1] or "")
        classes, width = logits.shape[1], features.shape[1]
        if isinstance(layer, _HEADS) and layer.weight[0].numel() == width and 0 <= classes - len(layer.weight) <= 1:
            parts = np.zeros((classes, width)), np.zeros(classes)  # of `TwoLogits` the first logit is 0
            for part, own in zip(parts, (layer.weight.flatten(1), layer.bias), strict=True):
                part[-len(layer.weight) :] = 0.0 if own is None else to_float64(own).cpu().numpy()
            head, expected = LinearHead(*parts), to_float64(logits).cpu().numpy()
            difference = np.abs(head.logits(to_float64(features).cpu().numpy()) - expected).max()
            if difference <= 1e-3 * np.abs(expected).max():
                return head
    raise Refusal(
        "The network should end in one linear layer, whose outputs are the logits. Got a "
        f"{type(network).__name__} that computes them otherwise. Use methods that read logits or features alone."
    )


def _no_layer(network: nn.Module, name: str) -> Refusal:
    return Refusal(
        f"`layers` should be modules of the network, or {PENULTIMATE}. Got {name!r}. Its children are "
        f"{[child for child, _ in network.named_children()]}; leave `layers` out for the usual ones."
    )


class _Reached(BaseException):
    """Raised to end a forward pass once all layers were read. Not an `Exception`, as networks may catch those."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


class _Pass:
    """What the modules of a network did in one forward pass: how often each ran, what they gave, and which was last."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network, self._modules = network, dict(network.named_modules())
        self.head: str | None = None
        self.penultimate = images
        self._given: dict[str, list[tuple[torch.Size, Tensor] | None]] = {name: [] for name in self._modules}
        with ExitStack() as stack:
            for name, module in self._modules.items():
                if isinstance(module, _HEADS):
                    stack.callback(module.register_forward_pre_hook(partial(self._begin_head, name)).remove)
                stack.callback(module.register_forward_hook(partial(self._keep, name, len(images))).remove)
            with reading(network):
                self._logits = network(images).shape

    def _begin_head(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.head, self.penultimate = name, _moments(name, module, args[0], spread=False, given=True)[0]

    def _keep(self, name: str, rows: int, module: nn.Module, args: Any, output: Any) -> None:
        output = _first_tensor(output)
        usable = isinstance(output, Tensor) and output.ndim >= 2 and len(output) == rows
        self._given[name].append((output.shape, _moments(name, module, output, spread=False)[0]) if usable else None)

    def _gave(self, name: str) -> tuple[torch.Size, Tensor] | None:
        """Shape and averages of an output; None if it is logits or no tensor of rows, or if the module ran not once."""
        given = self._given[name]
        return given[0] if len(given) == 1 and given[0] and given[0][0] != self._logits else None

    def _shape(self, name: str) -> torch.Size | None:
        gave = self._gave(name)
        return gave and gave[0]

    def named(self) -> list[str]:
        """Feature layers of a ResNet or a DenseNet, found by the names of its children."""
        for name, module in self._modules.items():
            children, layers = [child for child, _ in module.named_children()], []
            if {"relu", "layer1"} <= set(children):
                layers = _below(name, ["relu", *_numbered("layer", children)])
            elif {"conv0", "denseblock1"} <= set(children):
                stem = "relu0" if "relu0" in children else "conv0"
                layers = [*_below(name, [stem, *_numbered("transition", children)]), PENULTIMATE]
            if layers and all(one == PENULTIMATE or self._gave(one) for one in layers):
                return layers
        return []

    def general(self) -> list[str]:
        """Feature layers of any other network."""
        layers = list(self._inside(*_body(self.network)))
        averages = [gave[1] for gave in map(self._gave, layers) if gave]
        same = (one for one in averages if one.shape == self.penultimate.shape)
        if self.head is not None and not any(
            torch.allclose(one, self.penultimate, rtol=1e-4, atol=1e-6) for one in same
        ):
            layers.append(PENULTIMATE)
        if layers:
            say(f"Feature layers: {', '.join(layers)}")
        return layers

    def _inside(self, prefix: str, module: nn.Module) -> Iterator[str]:
        for name, child in _with_parameters(prefix, module):
            if f"{self.head}.".startswith(f"{name}."):
                return
            inside = [name] if self._gave(name) else list(self._inside(name, child))
            if self._given[name]:
                yield from inside
            else:
                yield from (list(stage)[-1] for _, stage in groupby(inside, self._shape))


def _usual_of(network: nn.Module, images: Tensor) -> tuple[list[str], str | None]:
    """Feature layers and the name of the head, if there is one; found in one pass, and kept with the network."""
    if network not in _usual:
        run = _Pass(network, images[:2])
        _usual[network] = run.named() or run.general(), run.head
    return _usual[network]


def _body(network: nn.Module) -> tuple[str, nn.Module]:
    """Look through wrappers: modules whose parameters all lie in one child."""
    name, body = "", network
    while True:
        inner = _with_parameters(name, body)
        if len(inner) != 1 or any(True for _ in body.parameters(recurse=False)):
            return name, body
        name, body = inner[0]


def _with_parameters(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Full names and children that have parameters."""
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    return [(_below(prefix, [name])[0], child) for name, child in children]


def _below(prefix: str, names: Sequence[str]) -> list[str]:
    return [f"{prefix}.{name}" if prefix else name for name in names]


def _numbered(prefix: str, children: Sequence[str]) -> list[str]:
    return [name for name in children if re.fullmatch(rf"{prefix}\d+", name)]


def _keep_output(name: str, kept: list[_Moments], spread: bool, module: nn.Module, args: Any, output: Any) -> None:
    kept.append(_moments(name, module, output, spread))  # at once: a layer that follows may overwrite its input


def _keep_input(kept: list[_Moments], spread: bool, module: nn.Module, args: Any) -> None:
    kept[:] = [_moments(PENULTIMATE, module, args[0], spread, given=True)]  # of the layer that runs last


def _moments(name: str, module: nn.Module, values: Any, spread: bool, given: bool = False) -> _Moments:
    """Moments over the places of what a module gave, or, of a layer, was given."""
    values = _first_tensor(values)
    if not isinstance(values, Tensor) or values.ndim < 2:
        kind = f"a tensor {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise Refusal(f"`layers` should give a tensor [N, C, ...] each. Got {kind} from {name!r}. Name another module.")
    values = values.float() if values.dtype in HALF else values  # as of networks that use autocast
    if values.ndim == 2:
        return values.clone(), values[:, :0]
    last = isinstance(module, nn.Linear) if given else _channels_last(module, values.shape)
    places = values.flatten(1, -2).mT if last else values.flatten(2)  # [N, C, places]
    average = values.flatten(1, -2).mean(dim=1) if last else places.mean(dim=2)
    if not spread:
        return average, average[:, :0]
    # torch's own `std` takes some fifteen times as long on a CPU
    return average, torch.linalg.vector_norm(places - average.unsqueeze(2), dim=2) / places.shape[2] ** 0.5


def _first_tensor(output: Any) -> Any:
    """The first tensor of a tuple or list; anything else as it is."""
    several = isinstance(output, tuple | list)
    return next((one for one in output if isinstance(one, Tensor)), output) if several else output


def _channels_last(module: nn.Module, shape: torch.Size) -> bool:
    """Whether the channels of an output are its last axis: that of tokens, unless the module's last layer has others."""
    for inner in reversed(list(module.modules())):
        for width in (getattr(inner, name, None) for name in _WIDTHS):
            width = width[-1] if isinstance(width, tuple) else width
            if width in (shape[1], shape[-1]) and shape[1] != shape[-1]:
                return bool(width == shape[-1])
    return len(shape) == 3


def _only(name: str, kept: list[_Moments], images: int) -> _Moments:
    rows = [average.shape[0] for average, _ in kept]  # `len` would fix the number where torch.export runs this
    if rows != [images]:
        raise Refusal(
            f"`layers` should be modules that run once on a batch and give a row for each of its {images} images; "
            f"`{PENULTIMATE}` is the input of the last nn.Linear or convolution. Got outputs with {rows} rows from {name!r}. "
            "Name another module."
        )
    return kept[0]
