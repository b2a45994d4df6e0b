"""Refusals: exceptions whose sentence says why something cannot be done, and checks of tensors that raise them."""

import difflib
import math
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor


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


def check_batch(images: Tensor) -> None:
    """Refuse what is not a dense floating point tensor [N, ...] of at least one image."""
    dense = isinstance(images, Tensor) and images.layout == torch.strided and not images.is_quantized
    if not dense or images.ndim < 2 or images.shape[0] == 0 or not images.is_floating_point():
        got = f"{list(images.shape)}, {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise Refusal(
            f"`images` should be a dense tensor [N, ...] of at least one image, floating point pixels in [0, 1]. Got {got}. "
            "Convert 8-bit pixels with `images.float() / 255`; give one image a leading dimension of 1."
        )


def check_images(images: Tensor) -> None:
    """Refuse images that are not a batch of float32 or float64 pixels in [0, 1]."""
    check_batch(images)
    if images.dtype not in (torch.float32, torch.float64):
        raise Refusal(f"`images` should be float32 or float64. Got {images.dtype}. Convert them with `images.float()`.")
    low, high = map(float, images.aminmax())
    if not (low >= 0 and high <= 1):  # true for NaN
        raise Refusal(
            f"`images` should be pixels in [0, 1]. Got values from {low:.6g} to {high:.6g}. "
            "Divide 8-bit pixels by 255, and put the normalisation into the network, as `networks.Normalized` does."
        )


def check_logits_shape(output: object, number: int, classes: int = 1) -> None:
    """Refuse an output that is not one row of at least `classes` logits for each of `number` images."""
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == number and output.shape[1] >= classes:
        return
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise Refusal(
        f"the network's output should be logits [N, classes], a row for each image, classes at least {classes}. "
        f"Got `output = {got}` for a batch of {number}. Wrap the network so that forward(images) returns its logits alone."
    )


def check_finite_rows(values: Tensor, what: str) -> None:
    """Raise `NotFinite` with the rows of values [N, ...] that hold a NaN or an infinity."""
    if torch.compiler.is_compiling():  # torch.export has no values yet
        return
    bad = (~torch.isfinite(values.detach().flatten(1)).all(1)).nonzero().flatten().tolist()
    if bad:
        raise NotFinite(
            f"{what} should be finite. Got NaN or infinity in {len(bad)} of {values.shape[0]} rows: {reprlib.repr(bad)[1:-1]}. "
            "Look at these images and at the network's weights.",
            bad,
        )


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
