"""Synthetic outliers along the network's gradient by the pixels, on its own predictions: relatives of attacks."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, input_gradient
from lightning_gradood.perturbations.outliers import (
    Blur,
    ChannelPermutation,
    ColourField,
    Draws,
    Elastic,
    GaussianNoise,
    Overlay,
    PatchShuffle,
    Rectangles,
    Rotation,
    SignNoise,
    Solarise,
    SyntheticOutlier,
    Zoom,
)
from lightning_gradood.perturbations.perturbation import Logits


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


_TINY = 1e-12


def _cross_entropy(predict: Logits, images: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(predict(images), classes, reduction="none")


def _within(images: Tensor, centre: Tensor, distance: Tensor) -> Tensor:
    return torch.min(torch.max(images, centre - distance), centre + distance).clamp(0, 1)


@dataclass(frozen=True)
class SignStep(GradientOutlier):
    """One step along the sign of the gradient of the cross entropy with the predicted class, of `low` to `high`."""

    passes = 1

    low: float = 0.01
    high: float = 0.06
    seed: int = 0

    @override
    def walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        gradient = pixel_gradient(lambda leaf: _cross_entropy(predict, leaf, predicted), images)
        return images + draws.uniform(self.low, self.high) * gradient.sign()


@dataclass(frozen=True)
class TargetSteps(GradientOutlier):
    """Six steps along signs of the gradient towards another class at random, within a distance of `low` to `high`."""

    passes = 7  # the first counts the classes

    low: float = 0.01
    high: float = 0.05
    seed: int = 0

    @override
    def walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad():
            classes = predict(images).shape[1]
        steps = torch.tensor(draws.integers(1, classes), device=images.device)
        targets, distance, moved = (predicted + steps) % classes, draws.uniform(self.low, self.high), images
        for _ in range(6):
            gradient = pixel_gradient(lambda leaf: _cross_entropy(predict, leaf, targets), moved)
            moved = _within(moved - distance / 3 * gradient.sign(), images, distance)
        return moved


@dataclass(frozen=True)
class BoundarySteps(GradientOutlier):
    """Up to five shortest steps, by the linearised network, until the second best class leads by `beyond` logits.

    Reference:
        Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool", towards the runner-up alone.
    """

    passes = 5

    beyond: float = 0.02
    seed: int = 0  # nothing is drawn

    @override
    def walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
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

    passes = 5

    low: float = 0.3
    high: float = 2.0
    seed: int = 0

    @override
    def walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        distance = draws.uniform(self.low, self.high) * (images[0].numel() / 3072) ** 0.5
        moved = images
        for _ in range(5):
            gradient = pixel_gradient(lambda leaf: _cross_entropy(predict, leaf, predicted), moved)
            moved = (moved + distance / 3 * gradient / _length(gradient)).clamp(0, 1)
            change = moved - images
            moved = images + change * (distance / _length(change)).clamp(max=1)
        return moved


@dataclass(frozen=True)
class SurerSteps(GradientOutlier):
    """Four steps along signs of the gradient that raises logsumexp, within a distance of `low` to `high`."""

    passes = 4

    low: float = 0.01
    high: float = 0.05
    seed: int = 0

    @override
    def walk(self, predict: Logits, images: Tensor, predicted: Tensor, draws: Draws) -> Tensor:
        distance, moved = draws.uniform(self.low, self.high), images
        for _ in range(4):
            gradient = pixel_gradient(lambda leaf: torch.logsumexp(predict(leaf), dim=1), moved)
            moved = _within(moved + distance / 2 * gradient.sign(), images, distance)
        return moved


def _length(values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return length.clamp(min=_TINY).view(-1, 1, 1, 1)


def default_outliers() -> list[SyntheticOutlier]:
    """Return one of every kind, those without gradients first."""
    natural = (
        *(GaussianNoise, SignNoise, PatchShuffle, Overlay, Blur, ChannelPermutation, Solarise, Rotation, Zoom, Elastic),
        *(ColourField, Rectangles, SignStep, TargetSteps, BoundarySteps, EuclideanSteps, SurerSteps),
    )
    return [kind() for kind in natural]
