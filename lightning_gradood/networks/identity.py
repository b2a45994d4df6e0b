"""Identity of a network, for the keys of caches: a digest of its weights and a description of its structure."""

import hashlib
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# Attributes of every module (hooks, `training`, the registries of parameters), which are no part of its structure.
_COMMON_ATTRIBUTES = frozenset(vars(nn.Module()))


def state_digest(network: nn.Module) -> str:
    """SHA-256 in hexadecimal over name, dtype, shape and bytes of every parameter and buffer, in their order.

    Buffers outside the state dict are included; device and memory format do not change the digest.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> state_digest(layer) == state_digest(layer.eval())
        True
    """
    digest = hashlib.sha256()
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        _update(digest, name, tensor)
    return digest.hexdigest()


def architecture(network: nn.Module) -> list[dict[str, Json]]:
    """Describe the structure of a network: everything but weights that tells what it computes, as far as data can say.

    Code is named, not read: two versions of a class with one name and the same attributes look alike.

    Returns:
        A list that `json.dumps` writes, with one dict for each submodule, `network` first: its `name` (dotted, empty
        for `network`), its `class` (qualified), and its own `attributes`, sorted by name and without `training`.
        Numbers, strings and lists or dicts of them stand as they are, tuples as lists, functions and classes as
        qualified names, tensors that are not registered as digests, any other object as the name of its class.

    Examples:
        >>> architecture(nn.Flatten())
        [{'name': '', 'class': 'torch.nn.modules.flatten.Flatten', 'attributes': {'end_dim': -1, 'start_dim': 1}}]
    """
    return [
        {
            "name": name,
            "class": _qualified_name(type(module)),
            "attributes": {
                key: _plain(value) for key, value in sorted(vars(module).items()) if key not in _COMMON_ATTRIBUTES
            },
        }
        for name, module in network.named_modules(remove_duplicate=False)
    ]


def _plain(value: Any) -> Json:
    match value:
        case Enum():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case np.generic() | np.ndarray():
            return _plain(value.tolist())
        case Tensor():
            digest = hashlib.sha256()
            _update(digest, "", value)
            return digest.hexdigest()
        case type() | FunctionType() | BuiltinFunctionType():
            return _qualified_name(value)
        case _:
            return _qualified_name(type(value))  # never repr(): it may hold a memory address


def _update(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    values = tensor.detach().cpu().reshape(-1)
    digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
    digest.update(values.view(torch.uint8).numpy().data)


def _qualified_name(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"
