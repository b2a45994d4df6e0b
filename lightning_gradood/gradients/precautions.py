"""Side effects of a forward pass (kept, updated or overwritten tensors), and what protects a pass from them.

Some networks keep a tensor that parameters determine from one call to the next (LeViT's attention biases): its graph
is gone after the first backward pass, and filled under `no_grad` it has none. Others update a buffer. `observe` finds
this out in a few forward passes; `Precautions.around` then gives every pass an empty cache and buffers of its own, and
puts back what the caller had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import requiring_grad
from lightning_gradood.gradients.network_checks import is_compiled

_INTERNAL = frozenset(nn.Module().__dict__)  # what every module has: parameters, buffers, hooks, its mode
_ABSENT = object()


@dataclass(frozen=True)
class Slot:
    """A place in a module that a forward pass fills: a plain attribute or a buffer.

    Attributes:
        module: the module's name in its network.
        name: the attribute's or buffer's.
        is_buffer: which of the two it is.
        is_read: whether the forward pass needs what the attribute held before; then it is given a copy of it.
    """

    module: str
    name: str
    is_buffer: bool = False
    is_read: bool = False

    def prepared(self, value: Any) -> Any:
        """The value that the place gets at the beginning of a pass."""
        if self.is_buffer or self.is_read:
            return value.detach().clone() if isinstance(value, Tensor) else copy(value)
        return _emptied(value)


@dataclass(frozen=True)
class Precautions:
    """Measures that a network's passes need.

    Attributes:
        slots: what a pass fills; emptied before it (a buffer: replaced by a copy), put back after it.
        reorders: whether batch norm may meet a layout that torch misreads (`core.network_state`).
        scales_logit_gradients: whether the backward pass is linear, so that its logit gradient may be brought to a safe scale.
    """

    slots: tuple[Slot, ...] = ()
    reorders: bool = True
    scales_logit_gradients: bool = True

    @contextmanager
    def around(self, network: nn.Module) -> Iterator[None]:
        """Make one pass, forward and backward, see empty slots; afterwards they hold what they held before."""
        if not self.slots:
            yield
            return
        places = [_place(network, slot) for slot in self.slots]
        held = [place.get(slot.name, _ABSENT) for place, slot in zip(places, self.slots, strict=True)]
        try:
            for place, slot, value in zip(places, self.slots, held, strict=True):
                if value is not _ABSENT:
                    place[slot.name] = slot.prepared(value)
            yield
        finally:
            for place, slot, value in zip(places, self.slots, held, strict=True):
                if value is _ABSENT:
                    place.pop(slot.name, None)
                else:
                    place[slot.name] = value


def observe(network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Precautions, Any]:
    """Find out what a forward pass changes, and leave no trace of it.

    Args:
        network: in eval mode.
        image: [1, ...], finite.
        parameters: the network's, to be differentiated.

    Returns:
        What to do about it, and the output of a pass made so, with its graph.
    """
    modules = _in_python(network)
    with requiring_grad(parameters, True), _put_back(modules) as changed:
        logits = network(image.clone())
        slots = changed()
    filled = _holding_tensors(modules)
    caches = _refilled(network, image, parameters, filled, logits) if filled else []
    others = [replace(slot, is_read=slot in filled) for slot in slots if slot not in caches]
    precautions = Precautions((*caches, *others))
    if caches:
        with requiring_grad(parameters, True), precautions.around(network):
            logits = network(image.clone())
    return precautions, logits


def _refilled(
    network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter], slots: list[Slot], logits: Any
) -> list[Slot]:
    """Those attributes that, emptied, are filled again by a forward pass with the same result: they are caches."""
    found: list[Slot] = []
    together = [slots] if len(slots) > 1 else []
    for group in [*together, *([slot] for slot in slots)]:
        if set(group) & set(found):
            continue
        with Precautions(tuple(group)).around(network), requiring_grad(parameters, True), suppress(Exception):
            again = network(image.clone())
            if _same(again, logits):
                found += [slot for slot in group if _tensors(_place(network, slot).get(slot.name))]
        if group is slots and len(found) == len(slots):
            break
    return found


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=1e-3, atol=1e-6)


@contextmanager
def _put_back(modules: Mapping[str, nn.Module]) -> Iterator[Any]:
    """Undo what happens to modules' plain attributes and buffers; yields a function that lists what did.

    An attribute counts if tensors went into it: a module may count its calls as it likes.
    """
    attributes = {
        Slot(name, key): (value, _shallow(value)) for name, module in modules.items() for key, value in _plain(module)
    }
    buffers = {
        Slot(name, key, True): (buffer, buffer._version, buffer.clone())
        for name, module in modules.items()
        for key, buffer in module._buffers.items()
        if buffer is not None
    }

    def changed() -> list[Slot]:
        """List the attributes and buffers that have changed since."""
        found = []
        for name, module in modules.items():
            for key, value in _plain(module):
                before, contents = attributes.get(Slot(name, key), (_ABSENT, None))
                if (value is not before or _differs(value, contents)) and (_tensors(value) or _tensors(before)):
                    found.append(Slot(name, key))
        for slot, (buffer, version, _) in buffers.items():
            now = modules[slot.module]._buffers.get(slot.name)
            if now is not buffer or buffer._version != version:
                found.append(slot)
        return found

    try:
        yield changed
    finally:
        for slot in changed():
            module = modules[slot.module]
            if slot.is_buffer:
                buffer, _, values = buffers[slot]
                module._buffers[slot.name] = buffer
                with torch.no_grad():
                    buffer.copy_(values)
            elif slot in attributes:
                value, contents = attributes[slot]
                _refill(value, contents)
                module.__dict__[slot.name] = value
            else:
                module.__dict__.pop(slot.name, None)


def _place(network: nn.Module, slot: Slot) -> dict[str, Any]:
    module = network.get_submodule(slot.module)
    return module._buffers if slot.is_buffer else module.__dict__


def _in_python(network: nn.Module) -> dict[str, nn.Module]:
    """The modules whose attributes can be looked at."""
    return {name: module for name, module in network.named_modules() if not is_compiled(module)}


def _plain(module: nn.Module) -> list[tuple[str, Any]]:
    """A module's own attributes: neither parameters, buffers and modules nor what every module has."""
    return [(name, value) for name, value in module.__dict__.items() if name not in _INTERNAL]


def _holding_tensors(modules: Mapping[str, nn.Module]) -> list[Slot]:
    return [
        Slot(name, key)
        for name, module in modules.items()
        for key, value in _plain(module)
        if isinstance(value, dict | list | Tensor) and _tensors(value)
    ]


def _tensors(value: Any) -> bool:
    """Whether `value` is a tensor or holds one."""
    if isinstance(value, dict):
        return any(isinstance(item, Tensor) for item in value.values())
    if isinstance(value, list | tuple):
        return any(isinstance(item, Tensor) for item in value)
    return isinstance(value, Tensor)


def _emptied(value: Any) -> Any:
    if isinstance(value, dict | list):
        empty = copy(value)
        empty.clear()
        return empty
    return None if isinstance(value, Tensor | tuple) else value


def _shallow(value: Any) -> Any:
    return copy(value) if isinstance(value, dict | list) else None


def _differs(value: Any, contents: Any) -> bool:
    if not isinstance(value, dict | list):
        return False
    now, before = (list(v.values()) if isinstance(v, dict) else list(v) for v in (value, contents))
    return len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True))


def _refill(value: Any, contents: Any) -> None:
    if isinstance(value, dict):
        value.clear()
        value.update(contents)
    elif isinstance(value, list):
        value[:] = contents
