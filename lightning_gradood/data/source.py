"""Sources of images: what a user configures, what opening it gives, and the batches a loader yields."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gradood.core import Picture, Refusal, Transform


class ImageBatch(NamedTuple):
    """A batch of images of one source.

    Args:
        images: [N, C, H, W]; uint8 as loaded where the source is, float32 in [0, 1] once on the device.
        labels: Class indices, int64 [N]; -1 where the class is unknown.
        rows: The images' rows in their source, int64 [N]: `source.ids[row]` is the id.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor


def as_it_is(batch: Any) -> Any:
    """Collate nothing, as our data sets give whole batches; a function of its own so that workers can unpickle it."""
    return batch


@dataclass(frozen=True)
class Listing(ABC):
    """The images found in an opened source, in a fixed order.

    Args:
        keys: One name per image, unique and the same on every machine: a relative posix path, or a zero-padded row.
        labels: One class index per image in this source's own label space; -1 where the class is unknown.
        classes: The class names, `labels` being indices into it; empty where the classes have no names.
    """

    keys: list[str]
    labels: list[int]
    classes: list[str]

    @abstractmethod
    def read(self, row: int) -> Picture:
        """Read the image of one row, before any transform; a Refusal that names it if it cannot be read."""

    def path(self, row: int) -> str:
        """The file of one image; empty where images are no files."""
        return ""

    @abstractmethod
    def fingerprint(self, row: int) -> bytes:
        """Return bytes that change whenever the image of this row does."""


class Source(ABC):
    """A source of images as it is configured, in YAML or in code; nothing is read before `open()`."""

    @abstractmethod
    def open(self) -> Listing:
        """List the images, without decoding them where that can be avoided.

        If there are none, a Refusal says what was looked for, where, and how to mend it.
        """


def row_keys(count: int) -> list[str]:
    """The row numbers 0 … `count` - 1 as text of equal length, so that sorting keeps their order."""
    width = len(str(max(count - 1, 0)))
    return [f"{row:0{width}d}" for row in range(count)]


TRIES = 8  # a flip that happens half the time is missed once in 128


def check_deterministic(read: Callable[[], Tensor], transform: Transform | None) -> None:
    """Refuse a transform that gives one image several ways."""
    first = read()
    if transform is not None and any(not torch.equal(first, read()) for _ in range(TRIES - 1)):
        raise Refusal(
            "`transform` should be deterministic: it is applied once, and its result is kept. "
            f"Got `transform = {transform!r}`, which gave one image in different ways. "
            "Leave random changes to `augment`, which is applied to training batches anew each time."
        )


def class_name(index: int, classes: Sequence[str]) -> str:
    """Name of a class; its index where classes have no names, nothing where it is unknown (-1).

    Example:
        >>> class_name(1, ["ant", "bee"]), class_name(7, []), class_name(-1, [])
        ('bee', '7', '')
    """
    if index < 0:
        return ""
    return classes[index] if index < len(classes) else str(index)
