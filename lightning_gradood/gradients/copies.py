"""Copies of a network: for passes that are independent of each other, and in another dtype for comparisons.

Some networks keep a tensor computed from parameters from one call to the next (LeViT's attention biases): its graph is
gone after the first backward pass, and filled under `no_grad` it has none. Others update a buffer. `observe` finds this
out in a few passes of copies; every pass of such a network then goes through a copy of its own (`Afresh`), so that no
pass depends on an earlier one, and the caller's network stays as it is.

`in_dtype` copies a network to judge rounding in float64. In copies for the first comparison small weights are replaced
(`reveal`): behind a factor of zero, or a layer scale of 1e-6 as many networks start with, a wrong number would be too
small to be seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, requiring_grad, to_float64_device
from lightning_gradood.gradients.fingerprint import Place, attributes_of, frozen, is_compiled
from lightning_gradood.gradients.reparametrised import tensors_in

_ABSENT = object()
_TINY = 0.05  # root mean square of a parameter; a smaller one could hide errors behind it


class Afresh(nn.Module):
    """A network of which every pass is made by a copy that shares its parameters; its modules have the same names.

    `starts` is what some attributes hold when a pass begins, such as an empty cache.
    """

    def __init__(self, network: nn.Module, starts: Mapping[Place, Any]) -> None:
        super().__init__()
        self.__dict__["original"] = network  # no submodule of this one, or names would change
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        self._starts = dict(starts)
        self.training = network.training

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns."""
        return _sharing(self.__dict__["original"], self._starts)(images)


def _copied(network: nn.Module, shared: Sequence[Any] = ()) -> nn.Module:
    """Return a deep copy in which tensors with a graph, e.g. a cached weight, have none.

    `shared` objects are not copied. Raises whatever a network raises that cannot be copied.
    """
    memo = {id(one): one for one in shared}
    for module in network.modules():
        for tensor in tensors_in([value for name, value in vars(module).items() if name != "_parameters"]):
            if not tensor.is_leaf:  # which deepcopy refuses
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(network, memo)


def _sharing(network: nn.Module, starts: Mapping[Place, Any]) -> nn.Module:
    """Return a copy that shares the network's parameters, with `starts` in place of some attributes."""
    compiled = [module for module in network.modules() if is_compiled(module)]
    with torch._C.DisableTorchFunction():  # copying is no part of the pass
        made = _copied(network, [*network.parameters(), *compiled])
    for (module, name), value in starts.items():
        attributes = vars(made.get_submodule(module))
        if value is _ABSENT:
            attributes.pop(name, None)
        else:
            attributes[name] = _start(value)
    return made


def observe(
    network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[dict[Place, Any] | None, set[Place], Any]:
    """Find out what a forward pass on a finite image [1, ...] changes.

    Returns what `Afresh` needs, or None for a network that may be used as it is; the attributes and buffers that its
    passes change; and a pass's output with its graph. Refuses a network that keeps tensors and cannot be copied.
    """
    before = _values(network)
    holding = [
        place
        for place, value in attributes_of(network).items()
        if isinstance(value, dict | list | Tensor) and _holds(value)
    ]
    with requiring_grad(parameters, True):
        try:
            subject = _sharing(network, {})
        except Exception as error:
            logits, changed, keeps = _passed(network, image)
            if holding or keeps:
                raise Refusal(
                    "`network` should allow copy.deepcopy, because it keeps tensors from call to call. "
                    f"Got {type(error).__name__}: {error}. Register constants as buffers, and compute the rest in every forward."
                ) from error
            return None, changed, logits
        logits, changed, keeps = _passed(subject, image)
        starts = {place: _start(before.get(place, _ABSENT)) for place in keeps if not _holds(before.get(place))}
        starts |= {place: _emptied(before[place]) for place in holding if _is_cache(network, image, place, logits)}
        if starts or keeps:
            return starts, changed | set(starts), Afresh(network, starts)(image.clone())
        logits, also_changed, _ = _passed(network, image)
    return None, changed | also_changed, logits


def _passed(network: nn.Module, image: Tensor) -> tuple[Any, set[Place], set[Place]]:
    """The output of a pass, the places that it changed, and those of them that hold or held tensors."""
    before = _values(network)
    alive = [tensors_in(value) for value in before.values()]  # so that no new tensor gets the identity of a freed one
    state = {place: frozen(value) for place, value in before.items()}
    logits = network(image.clone())
    now = _values(network)
    changed = {
        place
        for place in {*now, *state}
        if place not in now or place not in state or frozen(now[place]) != state[place]
    }
    del alive
    return logits, changed, {place for place in changed if _holds([now.get(place), before.get(place)])}


def _is_cache(network: nn.Module, image: Tensor, place: Place, logits: Any) -> bool:
    """Whether an attribute, emptied, is filled again by a forward pass with the same result."""
    with suppress(Exception):
        subject = _sharing(network, {place: _emptied(attributes_of(network)[place])})
        same = torch.allclose(subject(image.clone()), logits, rtol=1e-3, atol=1e-6)
        return same and _holds(attributes_of(subject).get(place))
    return False


def _values(network: nn.Module) -> dict[Place, Any]:
    """Attributes and buffers by their places."""
    modules = [(name, module) for name, module in network.named_modules() if not is_compiled(module)]
    buffers = {(name, key): buffer for name, module in modules for key, buffer in module._buffers.items()}
    return attributes_of(network) | buffers


def _holds(value: Any) -> bool:
    """Whether a value is or holds tensors that are not parameters."""
    return any(not isinstance(tensor, nn.Parameter) for tensor in tensors_in(value))


def _start(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list) else value


def _emptied(value: Any) -> Any:
    if not isinstance(value, dict | list):
        return None
    empty = copy.copy(value)  # of the same kind, e.g. an OrderedDict
    empty.clear()
    return empty


def in_dtype(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a copy in another dtype, on the network's device or, where that has no float64, on the CPU.

    Raises whatever a network raises that cannot be copied or cast.
    """
    made = _copied(network)
    first = next(made.parameters())
    made = made.to(to_float64_device(first).device if dtype == torch.float64 else first.device).to(dtype)
    device = next(made.parameters()).device
    for module in made.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                module.__dict__[name] = value.to(device).to(dtype)
    return made


def images_for(network: nn.Module, images: Tensor) -> Tensor:
    """Images on a network's device and in its dtype; they are moved before they become float64."""
    parameter = next(network.parameters())
    return images.to(parameter.device).to(parameter.dtype)


def reveal(parameters: Sequence[nn.Parameter]) -> None:
    """Fill parameters that are zero or tiny with numbers of an ordinary size, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            values = parameter.detach()
            # how many inputs one output of this weight adds up
            inputs = values[0].numel() if values.ndim > 1 and values.numel() else 1
            if not values.numel() or float(values.square().mean().sqrt()) >= _TINY / math.sqrt(inputs):
                continue
            drawn = torch.rand(values.shape, generator=generator)
            positive = values.ndim < 2 or inputs == 1  # as scales and temperatures are
            parameter.copy_(0.25 + 0.5 * drawn if positive else (2 * drawn - 1) * math.sqrt(3 / inputs))
