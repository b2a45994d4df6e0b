"""Synthetic outliers along the network's gradient by the pixels, on its own predictions: relatives of attacks."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.core import input_gradient
from lightning_gradood.perturbations.outliers import WITHOUT_NETWORK, Draws, SyntheticOutlier
from lightning_gradood.perturbations.perturbation import Logits, Made

_TINY = 1e-12
Loss = Callable[[Tensor], Tensor]
"""One number for each image, [N, C, H, W] to [N]."""


class GradientOutlier(SyntheticOutlier):
    """A synthetic outlier made with the network's gradient by the pixels; a subclass writes `_walk`, not `_make`."""

    @abstractmethod
    def _walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        """Return outliers [N, C, H, W] of images [N, C, H, W], pixels in [0, 1], with `predicted` classes int64 [N]."""

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        raise NotImplementedError("it is made by `craft`, with a network")

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        draws = Draws(self.seed, self.name, ids, images)
        return self._walk(Logits(network), images, labels, draws).clamp(0, 1), None


def _gradient(loss: Loss, images: Tensor) -> Tensor:
    leaf = images.detach().clone().requires_grad_()
    return input_gradient(loss(leaf).sum(), leaf)


def _cross_entropy(predict: Logits, classes: Tensor) -> Loss:
    return lambda images: F.cross_entropy(predict(images), classes, reduction="none")


def _sign_steps(loss: Loss, images: Tensor, number: int, step: Tensor, distance: Tensor) -> Tensor:
    """Take a number of steps along the sign of the gradient, within a distance of each pixel."""
    moved = images
    for _ in range(number):
        moved = moved + step * _gradient(loss, moved).sign()
        moved = torch.min(torch.max(moved, images - distance), images + distance).clamp(0, 1)
    return moved


@dataclass(frozen=True)
class SignStep(GradientOutlier):
    """One step along the sign of the gradient of the cross entropy with the predicted class, of `low` to `high`."""

    low: float = 0.01
    high: float = 0.06

    def _walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        step = draws.uniform(self.low, self.high)
        return _sign_steps(_cross_entropy(predict, predicted), images, 1, step, step)


@dataclass(frozen=True)
class TargetSteps(GradientOutlier):
    """Six steps along signs of the gradient towards another class at random, within a distance of `low` to `high`."""

    low: float = 0.01
    high: float = 0.05

    def _walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad():
            classes = predict(images).shape[1]
        targets = (predicted + torch.tensor(draws.integers(1, classes), device=images.device)) % classes
        distance = draws.uniform(self.low, self.high)
        return _sign_steps(_cross_entropy(predict, targets), images, 6, -distance / 3, distance)


@dataclass(frozen=True)
class BoundarySteps(GradientOutlier):
    """Up to five shortest steps, by the linearised network, until the second best class leads by `beyond` logits.

    Reference:
        Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool", towards the runner-up alone.
    """

    beyond: float = 0.02

    def _walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        moved, own = images, predicted[:, None]
        for _ in range(5):
            leaf = moved.detach().clone().requires_grad_()
            logits = predict(leaf)
            rival = logits.detach().scatter(1, own, -torch.inf).argmax(1, keepdim=True)
            lead = (logits.gather(1, own) - logits.gather(1, rival))[:, 0]
            gradient = input_gradient(lead.sum(), leaf)
            needed = (lead.detach().clamp(min=0) + self.beyond).view(-1, 1, 1, 1)
            step = 1.02 * needed * gradient / gradient.flatten(1).square().sum(1).clamp(min=_TINY).view(-1, 1, 1, 1)
            # an image that has passed the boundary stays
            moved = torch.where((lead.detach() < 0).view(-1, 1, 1, 1), moved, (moved - step).clamp(0, 1))
        return moved


@dataclass(frozen=True)
class EuclideanSteps(GradientOutlier):
    """Five steps along the gradient of the cross entropy with the predicted class, within an L2 distance.

    It is `low` to `high` for images of 3,072 pixel values, and grows with the root of their number.
    """

    low: float = 0.3
    high: float = 2.0

    def _walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        distance = draws.uniform(self.low, self.high) * (images[0].numel() / 3072) ** 0.5
        moved = images
        for _ in range(5):
            gradient = _gradient(_cross_entropy(predict, predicted), moved)
            moved = (moved + distance / 3 * gradient / _length(gradient)).clamp(0, 1)
            change = moved - images
            moved = images + change * (distance / _length(change)).clamp(max=1)
        return moved


@dataclass(frozen=True)
class SurerSteps(GradientOutlier):
    """Four steps along signs of the gradient that raises logsumexp, within a distance of `low` to `high`."""

    low: float = 0.01
    high: float = 0.05

    def _walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        distance = draws.uniform(self.low, self.high)
        return _sign_steps(lambda leaf: predict(leaf).logsumexp(1), images, 4, distance / 2, distance)


def _length(values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return length.clamp(min=_TINY).view(-1, 1, 1, 1)


WITH_GRADIENT: tuple[type[SyntheticOutlier], ...] = (SignStep, TargetSteps, BoundarySteps, EuclideanSteps, SurerSteps)


def default_outliers() -> list[SyntheticOutlier]:
    """Return one of every kind, those without gradients first."""
    return [kind() for kind in [*WITHOUT_NETWORK, *WITH_GRADIENT]]
