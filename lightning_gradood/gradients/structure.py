"""A network's modules and parameters by name, kept from call to call: walking over them takes as long as a small layer."""

from __future__ import annotations

from collections.abc import Mapping
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
        self._registered = [_registered(module) for module in modules.values()]
        self.parameters = _named_parameters(modules)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """What `named_modules` gives."""
        return {"": network, **self._inner}

    def is_of(self, network: nn.Module) -> bool:
        """Whether nothing was added, removed or exchanged since."""
        if self._compiled:  # whose registries are made anew at each look
            return False
        for module, registered in zip((network, *self._inner.values()), self._registered, strict=True):
            # dictionaries compare their values by identity first, so that no tensor is looked at
            if module._modules != registered[0] or module._parameters.keys() != registered[1].keys():
                return False
            for name, parameter in module._parameters.items():
                if parameter is not registered[1][name]:
                    return False
        return True


_structures: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()


def structure_of(network: nn.Module) -> Structure:
    """Return a network's structure, from an earlier call if it is still the same."""
    known = _structures.get(network)
    if known is None or not known.is_of(network):
        known = _structures[network] = Structure(network)
    return known


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.jit compiled it, so that its attributes cannot be looked at."""
    return isinstance(module, torch.jit.ScriptModule)


def _registered(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(module._modules.items()), dict(module._parameters.items())


def _named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """What `named_parameters` gives for these `named_modules`: each tensor once, under its first name."""
    first: dict[nn.Parameter, str] = {}
    for prefix, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                first.setdefault(parameter, f"{prefix}.{name}" if prefix else name)
    return {name: parameter for parameter, name in first.items()}
