"""Attacks on classifier and detector at once. Changes stay within a ball around the image, pixels within [0, 1]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.audit.target import Judgement, Target, margins
from lightning_gradood.core import Component, FinitePositive, PositiveInt, image_generator

Goal = Literal["evade", "hide", "alarm"]
"""`evade`: the classifier errs and the score is low. `hide`: the score is low. `alarm`: the score is high."""

Norm = Literal["linf", "l2"]
_FIRST_STEP = 0.25  # of the radius; steps fall to 0 along half a cosine
_SURE = 1.0  # margin in logits beyond which an error is kept while the score is lowered


@dataclass(frozen=True)
class Ball:
    """The images within `radius` of clean ones [N, ...], in the largest change of a pixel or in Euclidean length."""

    clean: Tensor
    radius: float
    norm: Norm

    def project(self, images: Tensor) -> Tensor:
        """The nearest images in the ball and in [0, 1]."""
        change = images - self.clean
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            change = change * (self.radius / _lengths(change).clamp_min(1e-12)).clamp_max(1.0)
        return (self.clean + change).clamp(0, 1)

    def step(self, images: Tensor, direction: Tensor, share: float) -> Tensor:
        """Move along a direction by a share of the radius."""
        unit = direction.sign() if self.norm == "linf" else direction / _lengths(direction).clamp_min(1e-30)
        return self.project(images + share * self.radius * unit)

    def part(self, rows: Tensor) -> Ball:
        """The ball of some images."""
        return replace(self, clean=self.clean[rows])

    def random(self, rows: Tensor, purpose: str, seed: int) -> Tensor:
        """An image of the ball for each row: a uniform change of each pixel, or one in a uniform direction."""
        part, streams = self.part(rows), [image_generator(seed, f"{row}/{purpose}") for row in rows.tolist()]
        shape = self.clean.shape[1:]
        if self.norm == "linf":
            drawn = [2 * torch.rand(shape, generator=one, dtype=torch.float64) - 1 for one in streams]
            return part.project(part.clean + self.radius * torch.stack(drawn).to(self.clean))
        drawn = [torch.randn(shape, generator=one, dtype=torch.float64) for one in streams]
        return part.step(part.clean, torch.stack(drawn).to(self.clean), 1.0)


class Best:
    """The best image so far for each clean one: of those with the wrong class (for `evade`), that of the lowest score.

    An image is settled once it has reached the goal as far as can be wished: a wrong class and a score below the median of
    normal images, for `alarm` a score above all of them. Attacks go on with the others alone, and never lose what was found.
    """

    def __init__(self, target: Target, goal: Goal, images: Tensor, labels: Tensor) -> None:
        self.target, self.goal, self.labels = target, goal, labels.cpu()
        self.images = images.clone()
        self.losses = torch.full((len(images),), torch.inf, dtype=torch.float64)
        wished = np.max(target.calibration) if goal == "alarm" else np.median(target.calibration)
        self.settled_below = -abs(float(wished) - target.threshold) / target.spread
        self.note(torch.arange(len(images)), images, target.judge(images))

    def note(self, rows: Tensor, images: Tensor, found: Judgement) -> Tensor:
        """Keep those images that are better than what these rows have; return the losses of all, float64 [n]."""
        losses = self._loss(rows, found)
        better = losses < self.losses[rows]
        self.losses[rows[better]] = losses[better]
        self.images[rows[better]] = images.detach()[better.to(images.device)]
        return losses

    def open(self, rows: Tensor) -> Tensor:
        """Places in `rows` of those that are not settled, int64 [n]."""
        return torch.where(self.losses[rows] >= self.settled_below)[0]

    def reached(self) -> int:
        """How many images have reached the goal at the target's threshold."""
        return int((self.losses < 0).sum())

    def _loss(self, rows: Tensor, found: Judgement) -> Tensor:
        """Below 0 where the goal is reached, lower = better, float64 [N]; units of the spread of normal scores."""
        over = (found.scores.detach() - self.target.threshold) / self.target.spread
        if self.goal == "alarm":
            return torch.where(over > 0, -over, -over + 1e-12)
        over = torch.where(over <= 0, over - 1e-12, over)
        if self.goal == "hide":
            return over
        margin = margins(found.logits.detach(), self.labels[rows])
        return torch.where(margin < 0, over, 1e6 + margin)  # a right class is worse than any score


class Attack(Component, ABC):
    """Looks for images in a ball that reach a goal; what it draws comes from `image_generator`, by the image's id."""

    name: ClassVar[str]
    sees_gradients: ClassVar[bool] = True
    goals: ClassVar[Sequence[Goal]] = ("evade", "hide", "alarm")

    @abstractmethod
    def with_steps(self, steps: int) -> Self:
        """The same attack, which looks as long as `steps` steps of a walk take."""

    @abstractmethod
    def run(self, best: Best, ball: Ball, rows: Tensor, restart: int, seed: int) -> Iterator[None]:
        """Look once for these rows, note what is found in `best`, and yield after each look, equally often for all rows."""


class _Way(NamedTuple):
    """Where a walk is: images that require grad, their margins and score losses (lower = better), and the score's weights."""

    images: Tensor
    margins: Tensor
    losses: Tensor
    weights: Tensor


@dataclass(frozen=True)
class _Walk(Attack):
    """Projected steps along a direction, from a random place in the ball.

    Args:
        steps: along the direction, each a forward and a backward pass at least.
    """

    steps: PositiveInt = 100

    @override
    def with_steps(self, steps: int) -> Self:
        return replace(self, steps=steps)

    @override
    def run(self, best: Best, ball: Ball, rows: Tensor, restart: int, seed: int) -> Iterator[None]:
        yield from self._walk(
            best, ball, rows, ball.random(rows, f"{restart}/audit", seed), torch.ones(len(rows)).double()
        )

    def _walk(
        self, best: Best, ball: Ball, rows: Tensor, images: Tensor, weights: Tensor
    ) -> Generator[None, None, Tensor]:
        """Walk with a weight of the score for each image [N]; return which were misclassified on the way."""
        wrong = torch.zeros(len(rows), dtype=torch.bool)
        for step in range(self.steps + 1):
            left = best.open(rows)
            if len(left):
                part = images[left].detach().requires_grad_()
                found = best.target.follow(part)
                best.note(rows[left], part, found)
                margin = margins(found.logits, best.labels[rows[left]])
                wrong[left] |= margin.detach() < 0
                way = _Way(part, margin, _score_loss(best, found), weights[left])
                share = _FIRST_STEP * (1 + math.cos(math.pi * step / self.steps)) / 2
                ahead = self._direction(way, best.goal)
                images[left] = ball.part(rows[left]).step(part.detach(), ahead, share)
            yield
        return wrong

    @abstractmethod
    def _direction(self, way: _Way, goal: Goal) -> Tensor:
        """The way to go, of the shape of the images."""


@dataclass(frozen=True)
class Joint(_Walk):
    """max(margin + κ, 0) + λ · score, the weight λ of each image found by binary search: the largest with an error.

    Args:
        steps: of each search.
        searches: values of λ that are tried, from 1 up or down by 10 until the two sides are known, then between them.

    Reference:
        Carlini and Wagner 2017, Adversarial Examples Are Not Easily Detected, section 2.3.
    """

    searches: PositiveInt = 4
    name: ClassVar[str] = "joint"
    goals: ClassVar[Sequence[Goal]] = ("evade",)

    @override
    def run(self, best: Best, ball: Ball, rows: Tensor, restart: int, seed: int) -> Iterator[None]:
        start = ball.random(rows, f"{restart}/audit", seed)
        weights = torch.ones(len(rows), dtype=torch.float64)
        low, high = torch.zeros_like(weights), torch.full_like(weights, torch.inf)
        for _ in range(self.searches):
            wrong = yield from self._walk(best, ball, rows, start.clone(), weights)
            low, high = torch.where(wrong, weights, low), torch.where(wrong, high, weights)
            between = torch.where(low > 0, (low * high).sqrt(), high / 10)
            weights = torch.where(high.isinf(), 10 * low, between)

    @override
    def _direction(self, way: _Way, goal: Goal) -> Tensor:
        return _gradient((way.margins + _SURE).clamp_min(0) + way.weights * way.losses, way.images)


@dataclass(frozen=True)
class Selective(_Walk):
    """Steps down the margin while the class is right, else down the score; with other goals along the score alone.

    Reference:
        Bryniarski et al. 2021, Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent,
        section 4.1.
    """

    name: ClassVar[str] = "selective"

    @override
    def _direction(self, way: _Way, goal: Goal) -> Tensor:
        right = (way.margins >= 0) & (goal == "evade")
        return _gradient(torch.where(right, way.margins, way.losses), way.images)


@dataclass(frozen=True)
class Orthogonal(_Walk):
    """As `Selective`, but without the part of each gradient that lies along the other.

    Reference:
        Bryniarski et al. 2021, section 4.2.
    """

    name: ClassVar[str] = "orthogonal"
    goals: ClassVar[Sequence[Goal]] = ("evade",)

    @override
    def _direction(self, way: _Way, goal: Goal) -> Tensor:
        of_class, of_score = _gradient(way.margins, way.images, keep=True), _gradient(way.losses, way.images)
        wrong = _as_rows(way.margins.detach() < 0, way.images)
        return torch.where(wrong, _without(of_score, of_class), _without(of_class, of_score))


@dataclass(frozen=True)
class Queries(Attack):
    """Random squares, kept where they bring the goal nearer: labels and scores are asked for, gradients are not.

    Args:
        queries: judgements of each image.
        largest: side of the first squares, as a share of the image's; it falls as queries are used up.

    Reference:
        Andriushchenko et al. 2020, Square Attack, algorithms 1 and 2, with the score in the loss.
    """

    queries: PositiveInt = 500
    largest: FinitePositive = 0.5
    name: ClassVar[str] = "queries"
    sees_gradients: ClassVar[bool] = False

    @override
    def with_steps(self, steps: int) -> Self:
        return replace(self, queries=5 * steps)  # a step forward and backward is worth more than a query

    @override
    def run(self, best: Best, ball: Ball, rows: Tensor, restart: int, seed: int) -> Iterator[None]:
        streams = [image_generator(seed, f"{row}/{restart}/queries") for row in rows.tolist()]
        images, losses = ball.random(rows, f"{restart}/audit", seed), torch.full((len(rows),), torch.inf).double()
        for number in range(self.queries + 1):
            left = best.open(rows)
            if len(left):
                share = self.largest * (1 - (number - 1) / self.queries) ** 2
                tried = images[left]
                if number:
                    tried = _with_squares(ball.part(rows[left]), tried, share, [streams[one] for one in left.tolist()])
                new = best.note(rows[left], tried, best.target.judge(tried))
                better = new < losses[left]
                losses[left[better]], images[left[better]] = new[better], tried[better.to(tried.device)]
            yield


def _with_squares(ball: Ball, images: Tensor, share: float, streams: Sequence[torch.Generator]) -> Tensor:
    """Images of a ball with a square each, of a share of the image's side, a random place and a random colour."""
    height, width = images.shape[-2:]
    side, tried = max(1, round(share * min(height, width))), images.clone()
    for row, stream in enumerate(streams):
        top, left = (int(torch.randint(0, size - side + 1, (), generator=stream)) for size in (height, width))
        colours = torch.randint(0, 2, (images.shape[1], 1, 1), generator=stream).to(images) * 2 - 1
        place = (row, slice(None), slice(top, top + side), slice(left, left + side))
        if ball.norm == "linf":
            tried[place] = ball.clean[place] + colours * ball.radius
        else:
            tried[place] += colours * ball.radius / side / images.shape[1] ** 0.5
    return ball.project(tried)


ATTACKS: Sequence[Attack] = (Joint(), Selective(), Orthogonal(), Queries())


def _score_loss(best: Best, found: Judgement) -> Tensor:
    """The score in its spread among normal images, float64 [N], lower = better for the attacker."""
    scores = found.scores / best.target.spread
    return -scores if best.goal == "alarm" else scores


def _gradient(loss: Tensor, images: Tensor, keep: bool = False) -> Tensor:
    """The way down; a gradient that is not finite, as that of a length at 0, counts as 0."""
    (gradient,) = torch.autograd.grad(loss.sum(), images, retain_graph=keep)
    return -gradient.nan_to_num(0.0, 0.0, 0.0)


def _without(one: Tensor, other: Tensor) -> Tensor:
    """What of one direction is orthogonal to another, image by image."""
    dot = (one * other).flatten(1).sum(dim=1) / other.flatten(1).square().sum(dim=1).clamp_min(1e-30)
    return one - _as_rows(dot, one) * other


def _lengths(change: Tensor) -> Tensor:
    return _as_rows(torch.linalg.vector_norm(change.flatten(1), dim=1), change)


def _as_rows(values: Tensor, images: Tensor) -> Tensor:
    """One value for each image, [N], in the dimensions of images."""
    return values.to(images.device).reshape(-1, *[1] * (images.ndim - 1))
