"""What a source of images is: a configuration that opens into a listing.

A `Source` is what a user writes in YAML; it touches no disk before `open()`. A `Listing` is what was found there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

Picture = Image.Image | Tensor
"""One image as a listing reads it: a PIL image, or a tensor [C, H, W]."""


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
        """Read the image of one row, before any transform.

        Raises:
            Refusal: The image cannot be read; the message names it.
        """

    @abstractmethod
    def fingerprint(self, row: int) -> bytes:
        """Return bytes that change whenever the image of this row does."""


class Source(ABC):
    """Where images come from: configuration only, until `open()` looks."""

    @abstractmethod
    def open(self) -> Listing:
        """List the images, without decoding them where that can be avoided.

        Raises:
            Refusal: There is nothing to list; the message says what was looked for, where, and how to mend it.
        """


def row_keys(count: int) -> list[str]:
    """Return the row numbers 0 … `count` - 1 as text of equal length, so that sorting keeps their order."""
    width = len(str(max(count - 1, 0)))
    return [f"{row:0{width}d}" for row in range(count)]
