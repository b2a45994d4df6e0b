"""A network's modules and parameters by name, kept from call to call: walking over them takes as long as a small layer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn


class Structure:
    """Which modules and parameters a network has.

    The network itself is not kept, or it would never be freed.

    Attributes:
        parameters: each tensor once, under its first name, in the order of `named_parameters`.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = dict(network.named_modules())
        self._inner = {name: module for name, module in modules.items() if name}
        self._compiled = any(is_compiled(module) for module in modules.values())
        # of modules that torch.jit compiled, these are made anew at each look
        self._registries = (
            [] if self._compiled else [r for module in modules.values() for r in (module._modules, module._parameters)]
        )
        self._names, self._ids = _contents(self._registries)
        self.parameters = _named_parameters(modules)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """What `named_modules` gives."""
        return {"": network, **self._inner}

    def is_current(self) -> bool:
        """Whether nothing was added, removed or exchanged since."""
        if self._compiled:
            return False
        return _contents(self._registries) == (self._names, self._ids)


_structures: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()


def structure_of(network: nn.Module) -> Structure:
    """Return a network's structure, from an earlier call if it is still the same."""
    known = _structures.get(network)
    if known is None or not known.is_current():
        known = _structures[network] = Structure(network)
    return known


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.jit compiled it, so that its attributes cannot be looked at."""
    return isinstance(module, torch.jit.ScriptModule)


def _contents(registries: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
    """Names and identities of what modules have registered, without a loop in Python."""
    return list(chain.from_iterable(registries)), list(map(id, chain.from_iterable(map(dict.values, registries))))


def _named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """What `named_parameters` gives for these `named_modules`: each tensor once, under its first name."""
    first: dict[nn.Parameter, str] = {}
    for prefix, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                first.setdefault(parameter, f"{prefix}.{name}" if prefix else name)
    return {name: parameter for parameter, name in first.items()}
