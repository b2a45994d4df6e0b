"""Files that appear whole or not at all, and text of others that is read within limits on bytes, depth and values.

A YAML alias stands for all that its anchor holds, so that a kilobyte can stand for 10⁹ values; 10⁵ brackets crash a
recursive parser or keep it busy for minutes. Both are found before anything is built.
"""

import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from lightning_gradood.core.errors import Unwritable

MAX_DEPTH = 64  # nesting of lists and mappings; an experiment file has less than 20
MAX_VALUES = 200_000  # of a YAML text, aliases expanded; ImageNet-21k's names take 65,000
YAML_BYTES = 2_000_000  # an experiment file takes some kilobytes
JSON_BYTES = 32_000_000  # the results of a run take a few megabytes

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@contextmanager
def atomic_write(path: Path, flag: str = "--run_dir") -> Iterator[BinaryIO]:
    """Yield a new binary file that takes the place of `path` once it is complete; raise `Unwritable`, naming `flag`.

    The bytes go to a temporary file in the same folder (which is made), because a rename is atomic only within one file
    system. If the block raises, or the disk is full, an older file at `path` stays as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_text()
    'whole'
    """
    # a random name: other threads, processes and machines may write the same file
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with writing_refused(path, flag, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # on a lost disk; the error that was raised before it counts
                temporary.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `atomic_write` gives, which a killed process may have left."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def writing_refused(path: Path, flag: str, *others: Path) -> Iterator[None]:
    """Raise a failure to write `path` as `Unwritable`; failures that name files elsewhere, and closed pipes, pass."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        ours = {str(one) for one in (path, *others, *path.parents)}
        if error.errno is None or (error.filename is not None and str(error.filename) not in ours):
            raise
        raise writing_refusal(path, flag, error) from error


def writing_refusal(path: Path | str, flag: str, error: OSError) -> Unwritable:
    """Word a failure to write."""
    fix = "Free some space" if error.errno in _FULL else "Make it one"
    return Unwritable(
        f"`{flag}` should be a place that can be written. Got {path}: {error.strerror or error}. {fix}, or name another, and "
        "run the same command again: nothing half-written is left, and what was written before is kept."
    )


def check_writable(folder: Path, flag: str) -> None:
    """Raise `Unwritable` for a folder in which no file can be made."""
    trial = folder / f".trial.{uuid.uuid4().hex[:12]}.tmp"  # a name that no file has
    with atomic_write(trial, flag) as file:
        file.write(b"\0" * 4096)
    trial.unlink(missing_ok=True)


class Unparsable(ValueError):
    """A text is not the YAML or JSON that it should be, or passes a limit; the message says what was got."""


def read_text(path: str | os.PathLike[str], limit: int = YAML_BYTES) -> str:
    """Read a regular file in UTF-8 of at most `limit` bytes; raise OSError or `Unparsable` for others."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Unparsable("a folder, pipe, socket or device")
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unparsable(f"more than {limit / 1e6:g} MB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unparsable("no text in UTF-8") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Plain values of a YAML file, or `Unparsable`."""
    text = read_text(path)
    check_yaml(text)
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # builds plain values only
    except Exception as error:  # of YAML, or of a converter, for tags such as `!!int x`
        raise Unparsable(" ".join(str(error).replace('in "<unicode string>", ', "at ").split())) from error


def read_json(path: str | os.PathLike[str], limit: int = JSON_BYTES) -> Any:
    """Plain values of a JSON file, or `Unparsable`."""
    return parse_json(read_text(path, limit))


def parse_json(text: str | bytes) -> Any:
    """Plain values of a JSON text, or `Unparsable`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unparsable(str(error)) from error


def check_yaml(text: str) -> None:
    """Raise `Unparsable` for a YAML text that passes a limit; other errors are left to its parser."""
    if len(text) > YAML_BYTES:
        raise Unparsable(f"more than {YAML_BYTES / 1e6:g} million characters")
    # of what anchors hold; in the parser's events an alias is one, however much it stands for
    sizes: dict[str, int] = {}
    total, begun = 0, list[tuple[str, int]]()
    with suppress(yaml.YAMLError):
        for event in yaml.parse(text, Loader=_Loader):
            match event:
                case yaml.CollectionEndEvent():
                    anchor, before = begun.pop()
                    sizes[anchor] = total - before
                case yaml.AliasEvent():
                    total += sizes.get(event.anchor, 1)
                case yaml.CollectionStartEvent():
                    begun.append((event.anchor or "", total))
                    sizes[event.anchor or ""] = MAX_VALUES  # until it ends: an alias within it is infinite
                    total += 1
                case yaml.ScalarEvent():
                    sizes[event.anchor or ""] = 1
                    total += 1
            if len(begun) > MAX_DEPTH:
                raise Unparsable(f"text that is nested more than {MAX_DEPTH} deep")
            if total > MAX_VALUES:
                raise Unparsable(f"more than {MAX_VALUES:,} values, its aliases expanded")
