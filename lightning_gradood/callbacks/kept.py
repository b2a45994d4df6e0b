"""Attacked images that an earlier run kept exactly, so that another probe does not craft them again."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.callbacks.entries import entries_of
from lightning_gradood.data import ImageDataModule
from lightning_gradood.probes import PixelProbe
from lightning_gradood.records import RecordCache, Records

_PIXELS = PixelProbe("float32")  # a rounded image may lie on the other side of the boundary that its attack has crossed


class KeptImages:
    """What `--data.keep_pixels float32` has put into the cache, for the sources of one experiment.

    Args:
        network: what the attacks were aimed at.
        data: knows the sources.
        cache: where records are.
    """

    def __init__(self, network: nn.Module, data: ImageDataModule, cache: RecordCache) -> None:
        made = [entry for entry in entries_of(network, data, [_PIXELS]) if entry.source in data.twins]
        self._keys: Mapping[str, str] = {entry.source: entry.key for entry in made if cache.has(entry.key)}
        self._cache = cache

    def find(self, source: str, ids: Sequence[str]) -> Records | None:
        """The records that hold these images; None if that source was not kept."""
        return self._cache.rows(self._keys[source], ids) if source in self._keys else None


def pixels_of(kept: Records, like: Tensor) -> Tensor:
    """The images of records, in the shape and dtype and on the device of `like` [n, C, H, W]."""
    pixels = kept.probe(_PIXELS.name).astype(np.float32)
    return torch.from_numpy(pixels).reshape(like.shape).to(like)
