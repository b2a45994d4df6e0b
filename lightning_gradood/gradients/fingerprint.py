"""What a proof was made for: a network's weights, flags and attributes, compared in a fraction of a millisecond.

A plan says that closed forms are right for a network as it was. Training, loading weights, a flag that is set, a hook or
a layer that is exchanged make it another one, of which nothing is known yet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.gradients.precautions import Precautions, Slot

_HOOKS = [name for name, value in nn.Module().__dict__.items() if name.endswith("hooks") and isinstance(value, dict)]
_DEPTH = 3  # of nested containers that are looked into


class Fingerprint:
    """A network's state at the time of its proof.

    Version counters tell every change that goes through torch, addresses tell exchanged tensors, and two entries of each
    parameter tell changes through `.data`, which have no version.

    Args:
        modules: a network's `named_modules`.
        moving: attributes and buffers that every forward pass changes; they are left out.
    """

    def __init__(self, modules: Mapping[str, nn.Module], moving: Collection[Slot] = ()) -> None:
        places = {(slot.module, slot.name) for slot in moving}
        self._modules = dict(modules)
        modules = _in_python(modules)
        compiled = [
            tensor
            for module in self._modules.values()
            if isinstance(module, torch.jit.ScriptModule)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        ]
        self._moving = {name: {place for owner, place in places if owner == name} for name, _ in places}
        self._attributes = [self._without_moving(name, module) for name, module in modules.items()]
        self._registered = [
            ({**module._parameters}, {**module._buffers}, {**module._modules}) for module in modules.values()
        ]
        self._hooks = [module.__dict__[name] for module in modules.values() for name in _HOOKS]
        self._count = sum(map(len, self._hooks))
        self._containers = [
            (value, _frozen(value, _DEPTH))
            for attributes in self._attributes
            for key, value in attributes.items()
            if isinstance(value, dict | list | set) and value is not None and key not in _REGISTRIES
        ]
        self._tensors = [
            tensor
            for name, module in modules.items()
            for key, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None and (name, key) not in places
        ] + compiled
        self._versions = _versions(self._tensors)
        held = (tensor for tensor in self._tensors if isinstance(tensor, nn.Parameter))
        self._samples = [sample for parameter in held for sample in _samples(parameter)]
        self._values = _joined(self._samples)

    def fits(self, modules: Mapping[str, nn.Module]) -> bool:
        """Whether the network is still the one of the proof."""
        try:
            return self._fits(modules)
        except (RuntimeError, ValueError):  # tensors or arrays that took another's place have no single truth value
            return False

    def _fits(self, modules: Mapping[str, nn.Module]) -> bool:
        if modules.keys() != self._modules.keys() or any(map(_is_not, modules.values(), self._modules.values())):
            return False
        for (name, module), attributes, registered in zip(
            _in_python(modules).items(), self._attributes, self._registered, strict=True
        ):
            now = self._without_moving(name, module) if name in self._moving else module.__dict__
            # dictionaries compare their values by identity first, so that no tensor is looked at
            if now != attributes or module._parameters != registered[0] or module._modules != registered[2]:
                return False
            if module._buffers != registered[1] and name not in self._moving:
                return False
        if sum(map(len, self._hooks)) != self._count or _versions(self._tensors) != self._versions:
            return False
        if any(_frozen(value, _DEPTH) != frozen for value, frozen in self._containers):
            return False
        return torch.equal(_joined(self._samples), self._values)

    def _without_moving(self, name: str, module: nn.Module) -> dict[str, Any]:
        moving = self._moving.get(name, ())
        return {key: value for key, value in module.__dict__.items() if key not in moving and key != "training"} | {
            "training": False
        }


def attributes_that_move(network: nn.Module, image: Tensor, precautions: Precautions) -> list[Slot]:
    """Plain attributes that one more forward pass changes, such as a count of calls."""
    modules = _in_python(dict(network.named_modules()))
    before = {
        Slot(name, key): _frozen(value, _DEPTH)
        for name, module in modules.items()
        for key, value in module.__dict__.items()
        if key not in _REGISTRIES
    }
    with precautions.around(network):
        network(precautions.given(image))
    return [
        slot for slot, value in before.items() if _frozen(modules[slot.module].__dict__.get(slot.name), _DEPTH) != value
    ]


_REGISTRIES = {"_parameters", "_buffers", "_modules"}


def _in_python(modules: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Without those that torch.jit compiled, whose attributes cannot be looked at."""
    if not any(isinstance(module, torch.jit.ScriptModule) for module in modules.values()):
        return modules
    return {name: module for name, module in modules.items() if not isinstance(module, torch.jit.ScriptModule)}


def _is_not(one: object, other: object) -> bool:
    return one is not other


def _versions(tensors: list[Tensor]) -> list[tuple[int, int]]:
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def _frozen(value: Any, depth: int) -> Any:
    """A value that can be compared later: containers entry by entry, tensors and other objects by identity."""
    if isinstance(value, Tensor):
        return (id(value), value._version)
    if depth and isinstance(value, dict):
        return [(_frozen(key, 0), _frozen(item, depth - 1)) for key, item in value.items()]
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_frozen(item, depth - 1) for item in value]
    return value if isinstance(value, bool | int | float | complex | str | bytes | None) else id(value)


def _samples(parameter: Tensor) -> list[Tensor]:
    """The first and the middle entry, as views that follow the parameter."""
    if not parameter.numel():
        return []
    values = parameter.detach()
    return [values[(0,) * values.ndim], values[tuple(size // 2 for size in values.shape)]]


def _joined(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples).nan_to_num() if samples else torch.zeros(0)
