"""The base class of probes, and the probe that keeps the images themselves."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component


class Probe(Component, ABC):
    """Reads one row of numbers per image from a network; one column of the records.

    A probe that compares images with those the network was trained on sets `needs_preparation`: it is then prepared on
    them once, before the first reading, and what it learnt is kept beside the records.
    """

    version: int = 1
    """Raised when the numbers a probe gives change; records of older versions are not read again."""

    needs_preparation: bool = False
    """Whether `prepare` and `load` come before the first reading."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Column name in the records, such as `gradients/all_ones`."""

    @abstractmethod
    def names(self, network: nn.Module) -> list[str]:
        """Names of the entries of a row, such as parameter names; empty where they have none."""

    @abstractmethod
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Read the network.

        Args:
            network: pixels in, logits out; left as it was found.
            images: pixels in [0, 1], [N, C, H, W].

        Returns:
            [N, width]; row n depends on image n only.
        """

    def describe(self) -> dict[str, object]:
        """JSON-able text of all settings that change the numbers; part of the cache key."""
        kind = type(self)
        return {"probe": f"{kind.__module__}.{kind.__qualname__}", "name": self.name, "version": self.version}

    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Learn from the network's training images; the probe itself stays as it is until `load`.

        Args:
            network: pixels in, logits out; left as it was found.
            batches: images in [0, 1], [N, C, H, W], on the network's device, and classes int64 [N].

        Returns:
            What `load` takes; nothing where the probe needs no preparation.
        """
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take what `prepare` has learnt, here or in another process."""

    def describe_preparation(self) -> dict[str, object]:
        """JSON-able text of all settings that change what `prepare` learns; probes that agree in it share that."""
        return self.describe()


class PixelProbe(Probe):
    """The pixels as the network gets them, channels first and flattened, [N, C·H·W].

    Args:
        dtype: `uint8` rounds to 0 … 255; `float16` keeps pixels in [0, 1] to about three digits, `float32` as they are.
    """

    def __init__(self, dtype: Literal["uint8", "float16", "float32"] = "uint8") -> None:
        self.dtype = dtype

    @property
    @override
    def name(self) -> str:
        return f"pixels/{self.dtype}"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return []

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.dtype == "uint8":
            return (pixels * 255).round().to(torch.uint8)
        return pixels.half() if self.dtype == "float16" else pixels.float()
