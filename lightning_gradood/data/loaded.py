"""An opened source whose images are ready for a network: decoded and transformed once, or on demand."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from lightning_gradood.data.batch import ImageBatch
from lightning_gradood.data.pixels import Transform, check_deterministic, to_pixels
from lightning_gradood.data.source import Listing
from lightning_gradood.errors import Refusal

GIB = 2**30


class LoadedSource(Dataset[ImageBatch]):
    """The images of one source under its name, as a map-style data set of whole batches.

    Nothing is decoded before it is needed, except the first image, which sets the shape. If all images together stay
    below the memory limit they are then decoded once and kept as one tensor; otherwise each batch is decoded anew.

    Args:
        name: The source's name; ids are `<name>/<key>`.
        listing: The opened source.
        transform: Deterministic; called once per image.
        rows: Which rows of the listing, ascending; None for all.
        memory_limit: The most bytes of pixels to keep in memory.

    Raises:
        Refusal: Keys repeat, the transform is random or gives something that is no image.
    """

    def __init__(
        self,
        name: str,
        listing: Listing,
        transform: Transform | None = None,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        memory_limit: int = 2 * GIB,
    ) -> None:
        self.name = name
        self.transform = transform
        self.classes = listing.classes
        self._listing = listing
        self._rows = range(len(listing.keys)) if rows is None else [int(row) for row in rows]
        self.ids = [f"{name}/{listing.keys[row]}" for row in self._rows]
        self.labels: NDArray[np.int64] = np.array([listing.labels[row] for row in self._rows], dtype=np.int64)
        self.num_classes = len(listing.classes) or max(listing.labels) + 1 or None
        self._refuse_repeated_keys()
        first = self._prepared(0)
        check_deterministic(lambda: self._prepared(0), transform)
        self.shape = tuple(first.shape)
        self.dtype = first.dtype
        self.in_memory = len(self.ids) * first.numel() * first.element_size() <= memory_limit

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> ImageBatch:
        images, labels, rows = self.__getitems__([row])
        return ImageBatch(images[0], labels[0], rows[0])

    def __getitems__(self, rows: Sequence[int]) -> ImageBatch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        return ImageBatch(self.images(rows), torch.from_numpy(self.labels)[index], index)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Return images as uint8 or float32 in [0, 1], [len(rows), C, H, W].

        Raises:
            Refusal: An image cannot be read, or has another shape than the first.
        """
        if self.in_memory:
            return self._all[torch.as_tensor(rows, dtype=torch.int64)]
        return torch.stack([self._checked(row) for row in rows])

    def digest(self) -> str:
        """Return a SHA-256 that changes with the ids' keys, the labels, or any pixel after the transform.

        It covers the pixels themselves if they are in memory, otherwise each file's content and the transform's repr.

        Raises:
            Refusal: The images are not in memory and the transform's repr is different in each process.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        keys = "\0".join(key.removeprefix(f"{self.name}/") for key in self.ids)
        total = hashlib.sha256(f"{keys}\0\0{self.labels.tolist()}{self.shape}{self.dtype}".encode())
        if self.in_memory:
            total.update(self._all.numpy().tobytes())
            return total.hexdigest()
        self._refuse_address_in_repr()
        total.update(repr(self.transform).encode())
        for row in self._progress("digesting"):
            total.update(self._listing.fingerprint(self._rows[row]))
        return total.hexdigest()

    @cached_property
    def _all(self) -> Tensor:
        images = torch.empty((len(self), *self.shape), dtype=self.dtype)
        for row in self._progress("reading"):
            images[row] = self._checked(row)
        return images

    def _progress(self, verb: str) -> "tqdm[int]":
        quiet = bool(getattr(rank_zero_only, "rank", 0))  # every process reads for itself, one of them reports
        return tqdm(range(len(self)), desc=f"{verb} {self.name}", unit=" images", disable=quiet)

    def _checked(self, row: int) -> Tensor:
        image = self._prepared(row)
        if tuple(image.shape) != self.shape or image.dtype != self.dtype:
            raise Refusal(
                f"`{self.name}` should hold images of one shape, {list(self.shape)} {self.dtype} as `{self.ids[0]}`. "
                f"Got `{self.ids[row]}` with {list(image.shape)} {image.dtype}. "
                "Give a `transform` that ends in one size, e.g. torchvision.transforms.v2.Resize with size [32, 32]."
            )
        return image

    def _prepared(self, row: int) -> Tensor:
        return to_pixels(self._listing.read(self._rows[row]), self.transform, self.ids[row])

    def _refuse_repeated_keys(self) -> None:
        if len(set(self.ids)) < len(self.ids):
            repeated = next(key for n, key in enumerate(self.ids) if key in self.ids[:n])
            raise Refusal(
                f"`keys` should be unique in a source. Got `{repeated}` twice. "
                "Let the source's listing number its keys."
            )

    def _refuse_address_in_repr(self) -> None:
        if re.search(r" at 0x[0-9a-fA-F]+", repr(self.transform)):
            raise Refusal(
                "`transform` should have a repr that says what it does, so that records can be found again. "
                f"Got `transform = {self.transform!r}`. Give its class a `__repr__` with its settings, "
                "or raise `memory_limit_gib` above the size of the images."
            )


class SourceRows(Dataset[ImageBatch]):
    """Some rows of a loaded source; batches name rows of the whole source.

    Args:
        source: The loaded source.
        rows: Which of its rows, in the order they are to come.
    """

    def __init__(self, source: LoadedSource, rows: Sequence[int] | NDArray[np.int64]) -> None:
        self.source = source
        self.rows = [int(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageBatch:
        return self.source[self.rows[index]]

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        return self.source.__getitems__([self.rows[index] for index in indices])
