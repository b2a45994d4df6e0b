"""Refusals: exceptions for what cannot be carried out, with the sentence that says why, and parts of such sentences."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class Refusal(ValueError):
    """An input is refused; the message is all that the user reads.

    Its grammar is the same everywhere: what was expected, what was got, how to fix it::

        raise Refusal("`split` should be three fractions that sum to 1. Got `split = [1, 1]`. Write e.g. [0.4, 0.4,
        0.2].")

    The command line prints the message without a traceback and exits with code 2; in Python it is a `ValueError`.
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
    """Replace parameters' names by the flags that the user typed, without dashes, in refusals from within.

    >>> with refused_as(path="model.weights"):
    ...     raise Refusal("`path` should be a file. Got `path = nope`. Name another.")
    Traceback (most recent call last):
    lightning_gradood.core.errors.Refusal: `model.weights` should be a file. Got `model.weights = nope`. Name another.
    """
    try:
        yield
    except Refusal as refusal:
        sentence = str(refusal)
        for parameter, flag in names.items():
            sentence = sentence.replace(f"`{parameter}`", f"`{flag}`").replace(f"`{parameter} = ", f"`{flag} = ")
        raise type(refusal)(sentence) from refusal


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Name the nearest of the known names in a sentence; `otherwise` where none is near.

    >>> did_you_mean("digts", ["digits", "folders"])
    'Did you mean `digits`?'
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean `{near[0]}`?" if near else otherwise
