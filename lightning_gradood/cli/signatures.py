"""What a command line and its files say of the network, and what of it belongs to another one."""

import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml

from lightning_gradood.core import read_yaml

CLASS_PATH, ARGUMENTS, CONFIG = "class_path", "init_args", ("-c", "--config")


def of_former_network(words: Sequence[str]) -> set[str]:
    """Names of arguments that files give to another network, of which the one that is named last is no subclass."""
    path, given, former = None, set[str](), set[str]()
    for name, value in network_settings(words):
        if name not in ("", CLASS_PATH):
            given.add(name)
            former.discard(name)
        elif value != path:
            if path and not _is_subclass(value, path):
                given, former = set(), former | given
            path = value
    return former


def _is_subclass(path: str, other: str) -> bool:
    """Whether both are import paths of classes, the first derived from the second."""
    try:
        return issubclass(pkgutil.resolve_name(path), pkgutil.resolve_name(other))
    except (AttributeError, ImportError, TypeError, ValueError):  # a function, a name of a hub, or nothing
        return False


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
