"""What every probe is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Probe(ABC):
    """Reads one row of numbers per image from a network; one column of the records."""

    version: int = 1
    """Raised when the numbers a probe gives change; records of older versions are not read again."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Column name in the records, such as `gradients/all_ones`."""

    @abstractmethod
    def names(self, network: nn.Module) -> list[str]:
        """What each entry of a row is, such as parameter names; its length is the row's."""

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
