"""Signatures that the parser of experiments cannot read, and what a command line and its files say of the network."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import yaml
from lightning.pytorch import loggers
from torch import nn

from lightning_gradood.core import check_import, read_yaml

CLASS_PATH, ARGUMENTS, CONFIG = "class_path", "init_args", ("-c", "--config")


@contextmanager
def readable_signatures(words: Sequence[str]) -> Iterator[None]:
    """Show the parser what it cannot read from signatures, the only place where what is of others is changed.

    A function without annotations, such as `timm.create_model`, may stand under `--model.network`, with any keyword
    that it takes; `--trainer.logger CSVLogger` may stand alone, as `place_loggers` fills in its `save_dir`.
    """
    path, names = None, list[str]()
    for name, value in network_settings(words):
        if name not in ("", CLASS_PATH):
            names.append(name)
        elif value != path:
            path, names = value, []  # arguments of another one
    room, _, name = str(path).rpartition(".")
    with suppress(Exception):  # importing runs a user's module: the parser imports it again, and says what is wrong
        check_import(str(path))
        function = getattr(import_module(room), name)
        if inspect.isfunction(function):
            _describe(function, names)
    before = {kind: kind.__init__.__defaults__ for kind in (loggers.CSVLogger, loggers.TensorBoardLogger)}
    try:
        for kind, values in before.items():
            kind.__init__.__defaults__ = (None, *(values or ()))  # `save_dir` is the last parameter that has no default
        yield
    finally:
        for kind, values in before.items():
            kind.__init__.__defaults__ = values


def _describe(function: Any, names: Sequence[str]) -> None:
    """Say that a function returns a network, and which keywords stand for its `**kwargs`."""
    signature = inspect.signature(function)
    known = list(signature.parameters.values())
    function.__annotations__ = {**function.__annotations__, "return": nn.Module}
    if known and known[-1].kind == inspect.Parameter.VAR_KEYWORD:
        more = [name for name in dict.fromkeys(names) if name.isidentifier() and name not in signature.parameters]
        keyword = inspect.Parameter.KEYWORD_ONLY
        known[-1:-1] = [inspect.Parameter(name, keyword, default=None, annotation=Any) for name in more]
        function.__signature__ = signature.replace(parameters=known, return_annotation=nn.Module)


def network_settings(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is said of the network, in order: its class path under "" or `class_path`, and its arguments by name."""
    for place, word in enumerate(words):
        option, sign, value = word.partition("=")
        given = value if sign else "".join(words[place + 1 : place + 2])
        if option in CONFIG:
            with suppress(Exception):  # the parser says what is wrong with it
                model = read_yaml(given)["model"]
                yield from _said_together(model.get(ARGUMENTS, model)["network"])
        parts = [part for part in option.removeprefix("--").split(".") if part != ARGUMENTS]
        if option.startswith("--") and parts[:2] == ["model", "network"]:
            name, whole = ".".join(parts[2:3]), None
            with suppress(yaml.YAMLError):
                whole = None if name else yaml.safe_load(given)  # in one word
            yield from _said_together(whole) if isinstance(whole, dict) else [(name, given)]


def _said_together(network: Any) -> Iterator[tuple[str, Any]]:
    """A network's class path, if there is one, and its arguments, of a mapping or a path."""
    network = network if isinstance(network, dict) else {CLASS_PATH: network}
    if CLASS_PATH in network:
        yield CLASS_PATH, network[CLASS_PATH]
    yield from (network.get(ARGUMENTS, {} if CLASS_PATH in network else network) or {}).items()
