"""Label designs: a confounding label and its loss, as the closed form of the loss's gradient in the logits.

Every gradient is written so that no digit is lost at any logit: a probability near 1 is never subtracted from 1. It
enters the backward pass scaled to a largest entry of 1 (`scaled_logit_gradient`), so that float32 does not underflow
for an image that the network classifies with great confidence.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override  # comes with torch; typing has it from Python 3.12 on

from lightning_gradood.core import Component, FinitePositive, NonNegativeInt, Refusal, to_float64


class LabelDesign(Component, ABC):
    """A confounding label and its loss; what backpropagation needs of the two is `logit_gradient`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name for columns and flags, e.g. ``"all_ones"``."""

    @abstractmethod
    def logit_gradient(self, logits: Tensor) -> Tensor:
        """Return the gradient of each image's own loss with respect to its logits.

        Args:
            logits: float64 [N, C], finite; on the CPU where the network's device has no float64.

        Returns:
            float64 [N, C]; row n belongs to image n alone (no mean over the batch).
        """


@dataclass(frozen=True)
class AllOnes(LabelDesign):
    """The paper's label (Eq. 1): all C classes at once, binary cross entropy, mean over classes: logit gradient −σ(−z) / C."""

    name = "all_ones"

    @override
    def logit_gradient(self, logits: Tensor) -> Tensor:
        return -torch.sigmoid(-logits) / logits.shape[1]


@dataclass(frozen=True)
class AllZeros(LabelDesign):
    """No class at all, binary cross entropy on raw logits, mean over classes: logit gradient σ(z) / C."""

    name = "all_zeros"

    @override
    def logit_gradient(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) / logits.shape[1]


@dataclass(frozen=True)
class KHot(LabelDesign):
    """Ones at `classes`, indices in [0, C), zeros elsewhere; binary cross entropy on raw logits, mean over classes."""

    classes: tuple[NonNegativeInt, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # a list from YAML would not hash

    @property
    @override
    def name(self) -> str:
        return "k_hot_" + "_".join(map(str, self.classes))

    @override
    def logit_gradient(self, logits: Tensor) -> Tensor:
        number = logits.shape[1]
        if not self.classes or not all(0 <= index < number for index in self.classes):
            raise Refusal(
                f"`classes` should be one or more of the network's {number} classes. "
                f"Got `classes = {list(self.classes)}`. Choose from 0 to {number - 1}."
            )
        hot = torch.zeros(number, dtype=torch.bool, device=logits.device)
        hot[list(self.classes)] = True
        return torch.where(hot, -torch.sigmoid(-logits), torch.sigmoid(logits)) / number


@dataclass(frozen=True)
class _Softmax(LabelDesign):
    """Softmax cross entropy on logits divided by `temperature`; above 1 the other classes weigh more."""

    temperature: FinitePositive = 1.0
    _plain_name: ClassVar[str]

    @property
    @override
    def name(self) -> str:
        return self._plain_name if self.temperature == 1 else f"{self._plain_name}_t{self.temperature:g}"

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        if logits.shape[1] < 2:
            raise Refusal(
                f"`{type(self).__name__}` should have two classes or more. Got a network with one logit, whose softmax is 1. "
                "Use `networks.TwoLogits(network)`, or another label design."
            )
        return torch.log_softmax(logits / self.temperature, 1)

    def _towards(self, target: Tensor, logits: Tensor) -> Tensor:
        """Logit gradient for one class per image, `target` int64 [N, 1]: p − 1 is never computed."""
        others = self._log_probabilities(logits).exp().scatter(1, target, 0.0)
        return others.scatter(1, target, -others.sum(1, keepdim=True)) / self.temperature


@dataclass(frozen=True)
class Predicted(_Softmax):
    """The predicted class, the first where logits tie, softmax cross entropy: (p_j − [j is that class]) / T."""

    _plain_name = "predicted"

    @override
    def logit_gradient(self, logits: Tensor) -> Tensor:
        return self._towards(logits.argmax(1, keepdim=True), logits)


@dataclass(frozen=True)
class SecondBest(_Softmax):
    """The class with the second largest logit, softmax cross entropy: logit gradient (p_j − [j is that class]) / T."""

    _plain_name = "second_best"

    @override
    def logit_gradient(self, logits: Tensor) -> Tensor:
        return self._towards(logits.topk(min(2, logits.shape[1]), dim=1).indices[:, 1:], logits)


@dataclass(frozen=True)
class Uniform(_Softmax):
    """All classes equally likely, softmax cross entropy: logit gradient (p − 1/C) / T."""

    _plain_name = "uniform"

    @override
    def logit_gradient(self, logits: Tensor) -> Tensor:
        number = logits.shape[1]
        log_ratio = self._log_probabilities(logits) + math.log(number)
        return torch.expm1(log_ratio) / (number * self.temperature)


def scaled_logit_gradient(design: LabelDesign, logits: Tensor, scales: bool = True) -> tuple[Tensor, Tensor]:
    """Return each image's logit gradient [N, C], scaled to a largest entry of 1, and the scale, float64 [N].

    A squared norm is that of the scaled backward pass times the squared scale. Zeros stay zeros, with scale 1; without
    `scales`, for a backward pass that is not linear, every scale is 1.
    """
    logit_gradient = design.logit_gradient(to_float64(logits.detach()))
    scale = logit_gradient.abs().amax(1) if scales else logit_gradient.new_ones(logit_gradient.shape[0])
    scale = scale.where(scale > 0, 1.0)
    return (logit_gradient / scale[:, None]).to(logits), scale
