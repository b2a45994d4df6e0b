"""Refusals: exceptions whose sentence says why something cannot be done; nothing heavy is imported for them."""

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin


class Refusal(ValueError):
    """An input is refused; the message, in which stands what was expected, what was got and how to fix it, is all that is said.

    The command line prints it without a traceback and exits with code 2; in Python it is a `ValueError`.
    """


class NotFinite(Refusal):
    """A network, or a probe of it, gives NaN or infinity for some images, the `rows` of the batch."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


class Unwritable(Refusal):
    """A place cannot be written, so that results cannot be kept."""


@contextmanager
def refused_as(**names: str) -> Iterator[None]:
    """Replace parameters' names by the flags that the user typed, without dashes, in refusals from within."""
    try:
        yield
    except Refusal as refusal:
        sentence = str(refusal)
        for parameter, flag in names.items():
            sentence = sentence.replace(f"`{parameter}`", f"`{flag}`").replace(f"`{parameter} = ", f"`{flag} = ")
        raise type(refusal)(sentence) from refusal


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Name the nearest of the known names in a sentence; `otherwise` where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean `{near[0]}`?" if near else otherwise


def first_line(error: Exception) -> str:
    """First line of what an error says, without its full stop; the error's type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")


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
        return (
            isinstance(value, dict) and fits([*value], list[str]) and all(fits(one, inner[1]) for one in value.values())
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return kind is Any or (value is None if kind in (None, type(None)) else type(value) is kind)
