"""Any map-style data set as a source: torchvision's, pytorch-ood's, or a user's own."""

import functools
import hashlib
import numbers
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_gradood.data.pixels import eight_bit
from lightning_gradood.data.source import Listing, Picture, Source, row_keys
from lightning_gradood.errors import Refusal

BY_HAND = {
    "CIFAR10": "Unpack `cifar-10-python.tar.gz` there, so that `cifar-10-batches-py/data_batch_1` exists below it",
    "CIFAR100": "Unpack `cifar-100-python.tar.gz` there, so that `cifar-100-python/train` exists below it",
    "SVHN": "Put `train_32x32.mat` and `test_32x32.mat` there",
    "TinyImageNetResize": "Put ODIN's `Imagenet_resize.tar.gz` there and unpack it beside itself, "
    "so that `Imagenet_resize/Imagenet_resize/` holds the images",
    "LSUNResize": "Put ODIN's `LSUN_resize.tar.gz` there and unpack it beside itself, "
    "so that `LSUN_resize/LSUN_resize/` holds the images",
}
"""How the files of the data sets in our configs are placed by hand, by class name."""


class DatasetSource(Source):
    """The images of a map-style data set, which is built when the source is opened.

    Items are an image, or a tuple that starts with an image and a class index; an image is a PIL image or a tensor
    [C, H, W] (uint8, or float in [0, 1]). Grey PIL images stay one channel, other modes become RGB. A negative class
    means unknown.

    Args:
        dataset: What builds the data set. In YAML the data set itself by `class_path` and `init_args`.
        where: Where its files are looked for, for the message when they are missing; by default the argument `root`.
        how: How its files are placed by hand, for the same message; known for the data sets of our configs.

    Example:
        >>> from torchvision.datasets import FakeData
        >>> len(DatasetSource(lambda: FakeData(size=3)).open().keys)
        3
    """

    def __init__(self, dataset: Callable[[], Dataset[Any]], where: str = "", how: str = "") -> None:
        self.dataset = dataset
        self.where = where
        self.how = how

    def open(self) -> Listing:
        """Build the data set and list its rows.

        Raises:
            Refusal: The data set's files are not there, or it has no length.
        """
        try:
            dataset = self.dataset()
        except (
            OSError,
            RuntimeError,
            ImportError,
        ) as error:  # missing files, no network, a missing reader such as scipy
            raise Refusal(self._not_there(error)) from error
        if not isinstance(dataset, Sized):
            raise Refusal(
                f"`dataset` should be a map-style data set with a length. Got `dataset = {type(dataset).__name__}`. "
                "Wrap it in one that reads its images by index."
            )
        classes = [str(name) for name in getattr(dataset, "classes", None) or []]
        listing = DatasetListing(row_keys(len(dataset)), [], classes, dataset)
        listing.labels.extend(_ready_labels(dataset) or [listing.label(row) for row in range(len(dataset))])
        return listing

    def _not_there(self, error: Exception) -> str:
        name, arguments = _describe(self.dataset)
        where = self.where or arguments.get("root", "")
        place = f"in `{Path(where).expanduser().absolute()}`" if where else "where its own arguments say"
        how = self.how or BY_HAND.get(name, "Put its files there")
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
        reason = " ".join(str(error).split()).split("You can use download")[0].rstrip(" .")
        return (
            f"`dataset` should find its files {place}. Got `dataset = {name}({shown})`: "
            f"{reason or type(error).__name__}. {how.rstrip('.')}; `configs/digits.yaml` needs no download."
        )


@dataclass(frozen=True)
class DatasetListing(Listing):
    """The rows of a map-style data set."""

    dataset: Dataset[Any]

    def read(self, row: int) -> Picture:
        """Read the image of one item."""
        item = self._item(row)
        image = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(image, Image.Image):
            image = eight_bit(image, f"{type(self.dataset).__name__}[{row}]")
            return image if image.mode in ("L", "RGB") else image.convert("RGB")
        if isinstance(image, Tensor):
            return image
        raise Refusal(
            "`dataset` should give PIL images or tensors, alone or first in a tuple. Got "
            f"`{type(image).__name__}` in row {row} of `{type(self.dataset).__name__}`. Wrap it in one that does."
        )

    def label(self, row: int) -> int:
        """Return the class index of one item, -1 where it has none."""
        item = self._item(row)
        return _as_label(item[1]) if isinstance(item, (tuple, list)) and len(item) > 1 else -1

    def fingerprint(self, row: int) -> bytes:
        """Return the SHA-256 of the image's shape and pixels."""
        pixels = np.asarray(self.read(row))
        return hashlib.sha256(repr((pixels.shape, str(pixels.dtype))).encode() + pixels.tobytes()).digest()

    def _item(self, row: int) -> Any:
        try:
            return self.dataset[row]
        except (OSError, RuntimeError, SyntaxError) as error:
            raise Refusal(
                f"`dataset` should give a readable image for every row. Got `{type(self.dataset).__name__}` "
                f"failing in row {row}: {error}. Remove or replace that image."
            ) from error


def _describe(factory: Callable[[], Dataset[Any]]) -> tuple[str, dict[str, Any]]:
    """Return the class name and arguments behind a data set factory; jsonargparse hands over a `functools.partial`."""
    if not isinstance(factory, functools.partial):
        return getattr(factory, "__name__", type(factory).__name__), {}
    built = next((arg for arg in reversed(factory.args) if isinstance(arg, type)), factory.func)
    return getattr(built, "__name__", type(built).__name__), dict(factory.keywords)


def _ready_labels(dataset: Any) -> list[int]:
    """Return the labels a data set keeps beside its images, or nothing where items must be read for them."""
    if getattr(dataset, "target_transform", None) is not None:  # the labels kept are those before it
        return []
    for name in ("targets", "labels"):
        kept = np.asarray(getattr(dataset, name, ()))
        if kept.ndim == 1 and len(kept) == len(dataset) and kept.dtype.kind in "iu":
            return [_as_label(label) for label in kept]
    return []


def _as_label(label: Any) -> int:
    if isinstance(label, Tensor) and label.ndim == 0:
        label = label.item()
    return max(int(cast(int, label)), -1) if isinstance(label, numbers.Integral) else -1
