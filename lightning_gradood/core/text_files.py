"""YAML and JSON that others may have written, read within limits on bytes, depth and values.

A YAML alias stands for all that its anchor holds, so that a kilobyte can stand for 10⁹ values; 10⁵ brackets crash a
recursive parser or keep it busy for minutes. Both are found before anything is built.
"""

import json
import math
import os
import re
import stat
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

MAX_DEPTH = 64  # nesting of lists and mappings; an experiment file has less than 20
MAX_VALUES = 200_000  # of a YAML text, aliases expanded; ImageNet-21k's names take 65,000
YAML_BYTES = 2_000_000  # an experiment file takes some kilobytes
JSON_BYTES = 32_000_000  # the results of a run take a few megabytes

_HARMLESS = 64  # characters, too few to pass a limit
_SURROGATE = re.compile(r"\\u[dD][89abAB]")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unparsable(ValueError):
    """A text is not the YAML or JSON that it should be, or passes a limit; the message says what was got."""


def read_text(path: str | os.PathLike[str], limit: int = YAML_BYTES) -> str:
    """Read a regular file in UTF-8 of at most `limit` bytes; raise OSError or `Unparsable` for others."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Unparsable("a folder" if os.path.isdir(path) else "a pipe, socket or device")
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unparsable(f"{os.path.getsize(path) / 1e6:,.1f} MB, where at most {limit / 1e6:g} are read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unparsable("no text in UTF-8") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file, see `parse_yaml`."""
    return parse_yaml(read_text(path))


def read_json(path: str | os.PathLike[str], limit: int = JSON_BYTES) -> Any:
    """Read a JSON file, see `parse_json`."""
    return parse_json(read_text(Path(path), limit))


def parse_yaml(text: str) -> Any:
    """Build plain values of a YAML text, or raise `Unparsable`.

    >>> parse_yaml("a: &a [1, 2]\\nb: *a")
    {'a': [1, 2], 'b': [1, 2]}
    """
    check_yaml(text)
    try:
        return yaml.load(text, Loader=_Loader)  # a safe loader: builds plain values only
    except Exception as error:  # of YAML, or of a converter, for tags such as `!!int x`
        raise Unparsable(" ".join(str(error).split())) from error


def parse_json(text: str | bytes) -> Any:
    """Build plain values of a JSON text, or raise `Unparsable`, also for characters that cannot be written.

    >>> parse_json('{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    try:
        found = json.loads(text)
        if _SURROGATE.search(text if isinstance(text, str) else text.decode("latin-1")):
            json.dumps(found, ensure_ascii=False).encode()  # fails for unpaired surrogates
        return found
    except RecursionError as error:
        raise Unparsable("text that is nested too deep") from error
    except ValueError as error:
        raise Unparsable(str(error)) from error


def check_yaml(text: str) -> None:
    """Raise `Unparsable` for a YAML text that passes a limit; other errors are left to its parser."""
    if len(text) > YAML_BYTES:
        raise Unparsable(f"{len(text) / 1e6:,.1f} million characters, where at most {YAML_BYTES / 1e6:g} are read")
    if len(text) > _HARMLESS:
        try:
            _count(text)
        except yaml.YAMLError:
            return


def _count(text: str) -> None:
    """Count values from the parser's events, where an alias is a single event however much it stands for."""
    sizes: dict[str, int] = {}  # of what anchors hold
    total, begun = 0, list[tuple[str | None, int]]()
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor or ""] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, total))
            sizes[event.anchor or ""] = MAX_VALUES  # until it ends: an alias within it is infinite
            total += 1
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
            total += 1
        if len(begun) > MAX_DEPTH:
            raise Unparsable(f"text that is nested more than {MAX_DEPTH} deep")
        if total > MAX_VALUES:
            raise Unparsable(f"more than {MAX_VALUES:,} values, its aliases expanded")


def fits(value: Any, kind: Any) -> bool:
    """Whether plain values are of a type as an annotation says it; numbers must be finite.

    Types are `str`, `int`, `float`, `bool`, `None`, `Any`, literals, lists, dicts with keys of text, and unions.

    >>> fits({"a": [1, 2.5]}, dict[str, list[float]]), fits([1, "2"], list[int]), fits(True, int)
    (True, False, False)
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(one, inner[1]) for key, one in value.items()
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return kind is Any or (value is None if kind in (None, type(None)) else type(value) is kind)
