"""Tensors that a network keeps, updates or overwrites in a forward pass, and passes that are independent of them.

Some networks keep a tensor computed from parameters from one call to the next (LeViT's attention biases): its graph is
gone after the first backward pass, and filled under `no_grad` it has none. Others update a buffer. `observe` finds this
out in a few passes of copies; every pass of such a network then goes through a copy of its own (`Afresh`), so that no
pass depends on an earlier one, and the caller's network stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, requiring_grad
from lightning_gradood.gradients.fingerprint import Place, attributes_of, frozen
from lightning_gradood.gradients.network_checks import is_compiled
from lightning_gradood.gradients.reparametrised import tensors_in

_ABSENT = object()


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
        return _copied(self.__dict__["original"], self._starts)(images)


def copied(network: nn.Module, shared: Sequence[Any] = ()) -> nn.Module:
    """Return a deep copy in which tensors with a graph, e.g. a cached weight, have none.

    `shared` objects are not copied. Raises whatever a network raises that cannot be copied.
    """
    memo = {id(one): one for one in shared}
    for module in network.modules():
        for tensor in tensors_in([value for name, value in vars(module).items() if name != "_parameters"]):
            if not tensor.is_leaf:  # which deepcopy refuses
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(network, memo)


def _copied(network: nn.Module, starts: Mapping[Place, Any]) -> nn.Module:
    compiled = [module for module in network.modules() if is_compiled(module)]
    with torch._C.DisableTorchFunction():  # copying is no part of the pass
        made = copied(network, [*network.parameters(), *compiled])
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
    attributes = attributes_of(network)
    holding = [
        place for place, value in attributes.items() if isinstance(value, dict | list | Tensor) and _holds(value)
    ]
    with requiring_grad(parameters, True):
        try:
            subject = _copied(network, {})
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
        subject = _copied(network, {place: _emptied(attributes_of(network)[place])})
        same = torch.allclose(subject(image.clone()), logits, rtol=1e-3, atol=1e-6)
        return same and _holds(attributes_of(subject).get(place))
    return False


def _values(network: nn.Module) -> dict[Place, Any]:
    """Attributes and buffers by their places."""
    buffers = {
        (name, key): buffer
        for name, module in network.named_modules()
        if not is_compiled(module)
        for key, buffer in module._buffers.items()
    }
    return attributes_of(network) | buffers


def _holds(value: Any) -> bool:
    """Whether a value is or holds tensors that are not parameters."""
    return any(not isinstance(tensor, nn.Parameter) for tensor in tensors_in(value))


def _start(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list) else value


def _emptied(value: Any) -> Any:
    empty = _start(value)
    if isinstance(empty, dict | list):
        empty.clear()
        return empty
    return None
