"""The base class of probes, and those that need no feature layers: gradient norms, logits, pixels."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, check_finite_rows, reading
from lightning_gradood.gradients import LabelDesign, parameter_names, squared_gradient_norms


class Probe(Component, ABC):
    """Reads one row of numbers per image from a network; one column of the records."""

    version: ClassVar[int] = 1
    """Raised when the numbers a probe gives change; records of older versions are not read again."""

    needs_preparation: ClassVar[bool] = False
    """Whether it compares images with those the network was trained on: `prepare` then comes before the first reading
    and returns another probe, which is the one that reads and is kept beside the records."""

    unprepared: ClassVar[tuple[str, ...]] = ()
    """Settings that `prepare` does not depend on: probes that differ in these alone share what is learnt."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Column name in the records, such as `gradients/all_ones`."""

    def names(self, network: nn.Module) -> list[str]:
        """Names of the entries of a row, such as parameter names; empty where they have none."""
        return []

    @abstractmethod
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Read the network.

        Args:
            network: pixels in, logits out; left as it was found.
            images: pixels in [0, 1], [N, C, H, W].

        Returns:
            [N, width]; row n depends on image n only.
        """

    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> "Probe":
        """Learn from the network's training images.

        Args:
            network: pixels in, logits out; left as it was found.
            batches: images in [0, 1], [N, C, H, W], on the network's device, and classes int64 [N].

        Returns:
            The probe that reads, a frozen dataclass of arrays; this one where it needs no preparation.
        """
        return self


@dataclass(frozen=True)
class GradientProbe(Probe):
    """The paper's probe: squared L2 norm of the loss gradient of every parameter tensor, per image, float64 [N, L].

    Reference:
        Lee, Prabhushankar, AlRegib 2022, Eq. 1 and 2.
    """

    label_design: LabelDesign

    @property
    @override
    def name(self) -> str:
        return f"gradients/{self.label_design.name}"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return parameter_names(network)

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        return squared_gradient_norms(network, images, self.label_design)


@dataclass(frozen=True)
class LogitsProbe(Probe):
    """The network's logits in evaluation mode, [N, classes], in its dtype."""

    name: ClassVar[str] = "logits"

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        with reading(network):
            logits: Tensor = network(images)
        check_finite_rows(logits, "The network's logits")
        return logits


class SharedLogitsProbe(Probe):
    """Computes its values from images and their logits, which `read_probes` shares among probes."""

    @abstractmethod
    def from_logits(self, network: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        """Compute the values, [N, width], from images, as for `Probe.__call__`, and their logits, [N, classes]."""

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        return self.from_logits(network, images, LogitsProbe()(network, images))


@dataclass(frozen=True)
class PixelProbe(Probe):
    """The pixels as the network gets them, channels first and flattened, [N, C·H·W].

    Args:
        dtype: `uint8` rounds to 0 … 255; `float16` keeps pixels in [0, 1] to about three digits, `float32` as they are.
    """

    dtype: Literal["uint8", "float16", "float32"] = "uint8"

    @property
    @override
    def name(self) -> str:
        return f"pixels/{self.dtype}"

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.dtype == "uint8":
            return (pixels * 255).round().to(torch.uint8)
        return pixels.half() if self.dtype == "float16" else pixels.float()
