"""Functions that return a network, under `--model.network`: with or without annotations, and with any keyword they take.

The parser asks a function for its annotated return type and for each parameter by name, and `timm.create_model` has neither. So
those that the user names are given both before anything is parsed.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from torch import nn

from lightning_gradood.core import may_import, read_yaml

_NETWORK = ("model", "network")
_CLASS_PATH, _ARGUMENTS = "class_path", "init_args"


def prepare_network_functions(words: Sequence[str]) -> None:
    """Let the parser accept the function that `--model.network` names, here or in experiment files, with the keywords given."""
    path, names = None, list[str]()
    for name, value in _settings(words):
        if name not in ("", _CLASS_PATH):
            names.append(name)
        elif value != path:
            path, names = value, []  # arguments of another one
    function = _function(path)
    if function is None:
        return
    if not _returns_a_network(function):
        function.__annotations__ = {**getattr(function, "__annotations__", {}), "return": nn.Module}
    _accept(function, names)


def _settings(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is said of the network, in order: its class path under "" or `class_path`, and its arguments by name."""
    for place, word in enumerate(words):
        option, sign, value = word.partition("=")
        given = value if sign else words[place + 1] if place + 1 < len(words) else ""
        if option in ("-c", "--config"):
            yield from _in_file(given)
        parts = tuple(part for part in option.removeprefix("--").split(".") if part != _ARGUMENTS)
        if option.startswith("--") and parts[:2] == _NETWORK:
            yield ".".join(parts[2:3]), given


def _in_file(path: str) -> Iterator[tuple[str, Any]]:
    with suppress(OSError, ValueError):  # the parser says what is wrong with it
        content = read_yaml(path)
        model = content.get("model") if isinstance(content, Mapping) else None
        model = model.get(_ARGUMENTS, model) if isinstance(model, Mapping) else {}
        network = model.get("network") if isinstance(model, Mapping) else None
        if isinstance(network, str):
            yield "", network
        elif isinstance(network, Mapping):
            yield _CLASS_PATH, network.get(_CLASS_PATH)
            arguments = network.get(_ARGUMENTS)
            yield from arguments.items() if isinstance(arguments, Mapping) else ()


def _function(path: Any) -> Any:
    room, _, name = str(path).rpartition(".")
    if not may_import(str(path)):
        return None
    with suppress(Exception):  # importing runs a user's module: the parser imports it again, and says what is wrong
        found = getattr(import_module(room), name)
        return found if inspect.isfunction(found) else None
    return None


def _returns_a_network(function: Any) -> bool:
    with suppress(Exception):  # a forward reference that cannot be resolved
        kind = inspect.get_annotations(function, eval_str=True).get("return")
        return inspect.isclass(kind) and issubclass(kind, nn.Module)
    return False


def _accept(function: Any, names: Sequence[str]) -> None:
    """Name the keywords given among a function's parameters, where it takes any."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[-1].kind != inspect.Parameter.VAR_KEYWORD:
        return
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Any)
        for name in dict.fromkeys(names)
        if name.isidentifier() and name not in signature.parameters
    ]
    function.__signature__ = signature.replace(
        parameters=[*parameters[:-1], *more, parameters[-1]], return_annotation=nn.Module
    )
