"""What jsonargparse asks of signatures, and others' functions and loggers do not say; it has no setting for either."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from lightning_gradood.core import may_import, read_yaml

_CLASS_PATH, _ARGUMENTS = "class_path", "init_args"


@contextmanager
def loggers_by_name() -> Iterator[None]:
    """Let `--trainer.logger CSVLogger` stand alone: the parser asks for no `save_dir`, which `place_loggers` fills in."""
    before = {kind: kind.__init__.__defaults__ for kind in (CSVLogger, TensorBoardLogger)}
    try:
        for kind, values in before.items():
            kind.__init__.__defaults__ = (None, *(values or ()))  # `save_dir` is the last parameter that has no default
        yield
    finally:
        for kind, values in before.items():
            kind.__init__.__defaults__ = values


def prepare_network_function(words: Sequence[str]) -> None:
    """Let a function stand under `--model.network`, with or without annotations, and with any keyword that it takes.

    The parser asks for its annotated return type and for each parameter by name, and `timm.create_model` has neither.
    """
    path, names = None, list[str]()
    for name, value in _network_settings(words):
        if name not in ("", _CLASS_PATH):
            names.append(name)
        elif value != path:
            path, names = value, []  # arguments of another one
    function = _function(path)
    if function is None:
        return
    if not _returns_a_network(function):
        function.__annotations__ = {**getattr(function, "__annotations__", {}), "return": nn.Module}
    signature = inspect.signature(function)
    known = list(signature.parameters.values())
    if known and known[-1].kind == inspect.Parameter.VAR_KEYWORD:
        more = [name for name in dict.fromkeys(names) if name.isidentifier() and name not in signature.parameters]
        keyword = inspect.Parameter.KEYWORD_ONLY
        known[-1:-1] = [inspect.Parameter(name, keyword, default=None, annotation=Any) for name in more]
        function.__signature__ = signature.replace(parameters=known, return_annotation=nn.Module)


def _network_settings(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is said of the network, in order: its class path under "" or `class_path`, and its arguments by name."""
    for place, word in enumerate(words):
        option, sign, value = word.partition("=")
        given = value if sign else "".join(words[place + 1 : place + 2])
        if option in ("-c", "--config"):
            yield from _in_file(given)
        parts = [part for part in option.removeprefix("--").split(".") if part != _ARGUMENTS]
        if option.startswith("--") and parts[:2] == ["model", "network"]:
            yield ".".join(parts[2:3]), given


def _in_file(path: str) -> Iterator[tuple[str, Any]]:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # the parser says what is wrong with it
        model = read_yaml(path)["model"]
        network = model.get(_ARGUMENTS, model)["network"]
        if isinstance(network, str):
            yield "", network
        else:
            yield _CLASS_PATH, network[_CLASS_PATH]
            yield from (network.get(_ARGUMENTS) or {}).items()


def _function(path: Any) -> Any:
    room, _, name = str(path).rpartition(".")
    if may_import(str(path)):
        with suppress(Exception):  # importing runs a user's module: the parser imports it again, and says what is wrong
            found = getattr(import_module(room), name)
            return found if inspect.isfunction(found) else None
    return None


def _returns_a_network(function: Any) -> bool:
    with suppress(Exception):  # a forward reference that cannot be resolved
        kind = inspect.get_annotations(function, eval_str=True).get("return")
        return inspect.isclass(kind) and issubclass(kind, nn.Module)
    return False
