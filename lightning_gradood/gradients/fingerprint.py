"""Fingerprints, which tell whether a network is still the one that a way was made for, and what it consists of.

Training, loading weights, or a changed flag, hook or layer calls for a new way. Weights, flags and attributes are
compared in a fraction of a millisecond. Modules and parameters by name are kept between calls (`structure_of`), since
walking over them takes as long as a small layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradood.core import Refusal

_SKIPPED = {"_parameters", "_buffers", "_modules", "training"}
_HOOKS = [name for name, value in vars(nn.Module()).items() if name.endswith("hooks") and isinstance(value, dict)]
_COUNTED = {*_HOOKS, "_non_persistent_buffers_set"}
_DEPTH = 3  # levels of nested containers that are compared

Place = tuple[str, str]
"""A module's name in its network, and the name of an attribute or a buffer in that module."""


class Structure:
    """A network's modules and parameters by name, without the network itself, so that it can be freed.

    `parameters` has each tensor once, under its first name, in the order of `named_parameters`.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = dict(network.named_modules())
        self._inner = {name: module for name, module in modules.items() if name}
        self.compiled = {name for name, module in modules.items() if is_compiled(module)}
        kept = [] if self.compiled else list(modules.values())  # torch.jit makes registries anew at each look
        self._registries = [registry for module in kept for registry in (module._modules, module._parameters)]
        self._names, self._ids = _contents(self._registries)
        self.parameters = dict(network.named_parameters())

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Equal `named_modules`."""
        return {"": network, **self._inner}

    def is_current(self) -> bool:
        """Whether nothing was added, removed or exchanged since."""
        return not self.compiled and _contents(self._registries) == (self._names, self._ids)


_structures: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()


def structure_of(network: nn.Module) -> Structure:
    """Return a network's structure, from an earlier call if it is still the same; refuse what is no module."""
    if not isinstance(network, nn.Module):
        raise Refusal(
            "`network` should be a torch.nn.Module, because its parameters are what gradients are taken of. "
            f"Got `network = {type(network).__name__}`. Pass the module itself, not a function that calls it."
        )
    known = _structures.get(network)
    if known is None or not known.is_current():
        known = _structures[network] = Structure(network)
    return known


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.jit compiled the module, so that its attributes cannot be read."""
    return isinstance(module, torch.jit.ScriptModule)


def _contents(registries: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
    """Names and identities of what modules have registered, without a loop in Python."""
    return list(chain.from_iterable(registries)), list(map(id, chain.from_iterable(map(dict.values, registries))))


def check_network(network: nn.Module, structure: Structure) -> None:
    """Refuse a network that cannot be differentiated throughout."""
    if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise Refusal(
            "`network` should be the bare network, because a parallel wrapper would average its gradients. "
            f"Got `network = {type(network).__name__}`. Pass `network.module`."
        )
    for name, parameter in structure.parameters.items():
        if is_lazy(parameter):
            raise Refusal(
                "`network` should have initialised parameters. "
                f"Got `{name}` without a shape. Run the network once on a batch of images."
            )
        if parameter._backward_hooks:
            raise Refusal(
                "`network` should have no hooks on its parameters, because they may change the gradients that are measured. "
                f"Got one on `{name}`. Take it off meanwhile: `handle.remove()` for the handle of register_hook."
            )
        if parameter.is_inference():
            _refuse_numbers(name, "an inference tensor", "Build or load the network outside torch.inference_mode.")
        if not parameter.is_floating_point():
            fix = (
                "torch.view_as_real keeps a complex one in real numbers"
                if parameter.is_complex()
                else "do not quantise it"
            )
            _refuse_numbers(name, str(parameter.dtype), f"Convert it: {fix}.")
    for name, module in structure.modules(network).items():
        if "quantized" in type(module).__module__ and "nn" in type(module).__module__:
            got = f"a quantised {type(module).__name__}, through which no gradient passes"
            _refuse_numbers(name, got, "Pass the network as it was before quantisation.")


def _refuse_numbers(name: str, got: str, fix: str) -> NoReturn:
    raise Refusal(
        f"`network` should have real floating point parameters that can record gradients. Got `{name}`, {got}. {fix}"
    )


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
        self._hooks = [
            vars(modules[name])[hook] for name in modules if name not in structure.compiled for hook in _HOOKS
        ]
        self._count = sum(map(len, self._hooks))
        self._buffers = self._fixed_buffers(modules)
        self._tensors = [*structure.parameters.values(), *self._buffers]
        self._versions = _versions(self._tensors)
        self._samples = [one for tensor in self._tensors if tensor.is_floating_point() for one in _samples(tensor)]
        self._values = _joined(self._samples)

    def fits(self, structure: Structure, network: nn.Module) -> bool:
        """Whether the network is still the one of the proof."""
        try:
            modules = structure.modules(network)
            buffers = self._fixed_buffers(modules)
            # dictionaries compare their values by identity first, so that few values are looked at
            return (
                structure is self._structure
                and self._shallow(modules) == self._attributes
                and sum(map(len, self._hooks)) == self._count
                and all(frozen(value) == kept for value, kept in self._containers)
                and list(map(id, buffers)) == list(map(id, self._buffers))
                and _versions(self._tensors) == self._versions
                and torch.equal(_joined(self._samples), self._values)
            )
        except (RuntimeError, ValueError):  # a tensor or array in an attribute's place has no single truth value
            return False

    def _shallow(self, modules: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
        """Every module's attributes, but for its parameters, buffers and modules, its mode, and what moves."""
        found = []
        for name, module in modules.items():
            if name in self._structure.compiled:
                continue
            attributes = vars(module).copy()
            for key in _SKIPPED:
                del attributes[key]
            for owner, key in self._moving:
                if owner == name:
                    attributes.pop(key, None)
            found.append(attributes)
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
    return {
        (name, key): value
        for name, module in network.named_modules()
        if not is_compiled(module)
        for key, value in vars(module).items()
        if key not in _SKIPPED
    }


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
