"""The base class of synthetic outliers, and the random numbers of each image in a batch."""

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Logits, Refusal, image_generator, input_gradient
from lightning_gradood.perturbations.perturbation import Perturbation


class Draws:
    """Random numbers for the images of a batch; an image has a stream of its own, whatever batch it comes in.

    Args:
        seed: of the synthetic outlier.
        name: of its kind; kinds draw independently.
        ids: names of the N images.
        like: a tensor on whose device, and in whose dtype, numbers are returned.
    """

    def __init__(self, seed: int, name: str, ids: Sequence[str], like: Tensor) -> None:
        self._streams = [image_generator(seed, f"{one}/{name}") for one in ids]
        self._like = like

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers between two bounds, [N, *shape]; [N, 1, 1, 1] without a shape."""
        return low + (high - low) * self._each(lambda stream: torch.rand(shape or (1, 1, 1), generator=stream))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, [N, *shape]."""
        return self._each(lambda stream: torch.randn(shape, generator=stream))

    def integers(self, low: int, high: int) -> list[int]:
        """One integer from `low` to `high` − 1 for each image."""
        return [int(torch.randint(low, high, (), generator=stream)) for stream in self._streams]

    def permutation(self, row: int, number: int) -> list[int]:
        """The numbers below `number` in random order, for image `row`."""
        order: list[int] = torch.randperm(number, generator=self._streams[row]).tolist()
        return order

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(stream) for stream in self._streams]).to(self._like)


class SyntheticOutlier(Perturbation):
    """Makes of a normal image one that stands for unknown anomalies, from that image alone.

    No second image takes part, so that an outlier lies in the split of its one image. A subclass is a frozen dataclass
    with a field `seed`, or a class with settings as attributes, and writes `make`; pixels are then clipped to [0, 1].

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Fade(SyntheticOutlier):
        ...     seed: int = 0
        ...     def make(self, images, draws):
        ...         return images * draws.uniform(0.1, 0.5)
        >>> Fade().name, Fade().craft(torch.nn.Flatten(), torch.ones(2, 1, 2, 2), torch.zeros(2).long()).images.shape
        ('fade', torch.Size([2, 1, 2, 2]))
    """

    passes = 0

    seed: int

    @property
    def name(self) -> str:
        """In ids, tables and the records' column `attack`: the name of the class in snake case."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def make(self, images: Tensor, draws: Draws) -> Tensor:
        """Return outliers [N, C, H, W] of images [N, C, H, W], pixels in [0, 1]; `images` is a copy."""

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        return self.make(images, Draws(self.seed, self.name, ids, images)).clamp(0, 1), None


class GradientOutlier(SyntheticOutlier):
    """A synthetic outlier made with the network's gradient by the pixels; a subclass writes `walk`."""

    @abstractmethod
    def walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        """Return outliers [N, C, H, W] of images [N, C, H, W], pixels in [0, 1], with `predicted` classes int64 [N]."""

    @override
    def make(self, images: Tensor, draws: Draws) -> Tensor:
        raise Refusal(f"`{type(self).__name__}` should be given a network. Got none. Call `craft`, not `make`.")

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        draws = Draws(self.seed, self.name, ids, images)
        return self.walk(Logits(network, labels), images, labels, draws).clamp(0, 1), None


def pixel_gradient(loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Gradient by the pixels, [N, C, H, W], of a loss that gives one number for each image, [N], or their sum."""
    leaf = images.detach().clone().requires_grad_()
    return input_gradient(loss(leaf).sum(), leaf)
