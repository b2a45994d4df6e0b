"""Fingerprints, which tell whether a network is still the one that a plan was made for.

Training, loading weights, or a changed flag, hook or layer calls for a new plan. Weights, flags and attributes are
compared in a fraction of a millisecond.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.gradients.network_checks import Structure, is_compiled

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_HOOKS = [name for name, value in vars(nn.Module()).items() if name.endswith("hooks") and isinstance(value, dict)]
_COUNTED = {*_HOOKS, "_non_persistent_buffers_set"}
_SKIPPED = {*_REGISTRIES, "training"}
_DEPTH = 3  # levels of nested containers that are compared

Place = tuple[str, str]
"""A module's name in its network, and the name of an attribute or a buffer in that module."""


class Fingerprint:
    """A network's state at the time of its proof, without what every pass changes (`moving`).

    Version counters tell every change that goes through torch, addresses tell exchanged tensors, and two entries of
    each tensor tell changes through `.data`, which have no version. Attributes are compared into dictionaries, lists
    and plain objects, such as a configuration that all modules share.
    """

    def __init__(self, structure: Structure, network: nn.Module, moving: Collection[Place] = ()) -> None:
        self._structure, self._moving = structure, set(moving)
        modules = structure.modules(network)
        self._attributes = self._shallow(modules)
        values = (value for attributes in self._attributes for key, value in attributes.items() if key not in _COUNTED)
        mutable = {id(value): value for value in values if isinstance(value, dict | list | set) or _is_settings(value)}
        self._containers = [(value, frozen(value)) for value in mutable.values()]
        self._hooks = [vars(module)[name] for module in _in_python(modules).values() for name in _HOOKS]
        self._count = sum(map(len, self._hooks))
        self._buffers = self._fixed_buffers(modules)
        self._tensors = [*structure.parameters.values(), *self._buffers]
        self._versions = _versions(self._tensors)
        self._samples = [
            sample for tensor in self._tensors if tensor.is_floating_point() for sample in _samples(tensor)
        ]
        self._values = _joined(self._samples)

    def fits(self, structure: Structure, network: nn.Module) -> bool:
        """Whether the network is still the one of the proof."""
        try:
            modules = structure.modules(network)
            # dictionaries compare their values by identity first, so that few values are looked at
            return (
                structure is self._structure
                and self._shallow(modules) == self._attributes
                and sum(map(len, self._hooks)) == self._count
                and all(frozen(value) == kept for value, kept in self._containers)
                and _same(self._fixed_buffers(modules), self._buffers)
                and _versions(self._tensors) == self._versions
                and torch.equal(_joined(self._samples), self._values)
            )
        except (RuntimeError, ValueError):  # a tensor or array in an attribute's place has no single truth value
            return False

    def _shallow(self, modules: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
        """Every module's attributes, but for its parameters, buffers and modules, its mode, and what moves."""
        found = []
        for name, module in _in_python(modules).items():
            attributes = vars(module).copy()
            for key in _SKIPPED:
                del attributes[key]
            found.append(attributes)
            if self._moving:
                for owner, key in self._moving:
                    if owner == name:
                        attributes.pop(key, None)
        return found

    def _fixed_buffers(self, modules: Mapping[str, nn.Module]) -> list[Tensor]:
        return [
            buffer
            for name, module in modules.items()
            for key, buffer in module._buffers.items()
            if buffer is not None and (name, key) not in self._moving
        ]


def attributes_of(network: nn.Module) -> dict[Place, Any]:
    """Every module's own attributes, but for its mode and those that hold parameters, buffers and modules."""
    modules = _in_python(dict(network.named_modules()))
    return {
        (name, key): value
        for name, module in modules.items()
        for key, value in vars(module).items()
        if key not in _SKIPPED
    }


def _in_python(modules: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Without those that torch.jit compiled, whose attributes cannot be read."""
    if not any(map(is_compiled, modules.values())):
        return modules
    return {name: module for name, module in modules.items() if not is_compiled(module)}


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _versions(tensors: list[Tensor]) -> list[tuple[int, int]]:
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def frozen(value: Any, depth: int = _DEPTH) -> Any:
    """A value that can be compared later: containers entry by entry, tensors and other objects by identity."""
    if isinstance(value, Tensor):
        return (id(value), value._version)
    if depth and isinstance(value, dict):
        return [(frozen(key, 0), frozen(item, depth - 1)) for key, item in value.items()]
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [frozen(item, depth - 1) for item in value]
    if depth and _is_settings(value):
        return (id(value), frozen(vars(value), depth - 1))
    return value if isinstance(value, bool | int | float | complex | str | bytes | None) else id(value)


def _is_settings(value: Any) -> bool:
    """Whether `value` is an object whose attributes say how to compute."""
    kind = type(value)
    return (
        kind.__module__ != "builtins" and not isinstance(value, nn.Module | Tensor | type) and kind.__dictoffset__ != 0
    )


def _samples(tensor: Tensor) -> list[Tensor]:
    """The first and the middle entry, as views that follow the tensor."""
    if not tensor.numel():
        return []
    values = tensor.detach()
    return [values[(0,) * values.ndim], values[tuple(size // 2 for size in values.shape)]]


def _joined(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples).nan_to_num() if samples else torch.zeros(0)
