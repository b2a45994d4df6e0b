"""Attacks on classifier and detector at once. Changes stay within a ball around the image, pixels within [0, 1]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

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

    def random(self, ids: Sequence[str], seed: int) -> Tensor:
        """An image of the ball for each id: a uniform change of each pixel, or one in a uniform direction."""
        streams = [image_generator(seed, f"{name}/audit") for name in ids]
        shape = self.clean.shape[1:]
        if self.norm == "linf":
            drawn = [2 * torch.rand(shape, generator=one, dtype=torch.float64) - 1 for one in streams]
            return self.project(self.clean + self.radius * torch.stack(drawn).to(self.clean))
        drawn = [torch.randn(shape, generator=one, dtype=torch.float64) for one in streams]
        return self.step(self.clean, torch.stack(drawn).to(self.clean), 1.0)


class Best:
    """The best image so far for each clean one: of those with the wrong class (for `evade`), that of the lowest score."""

    def __init__(self, target: Target, goal: Goal, images: Tensor, labels: Tensor) -> None:
        self.target, self.goal, self.labels = target, goal, labels.cpu()
        self.images = images.clone()
        self.losses = torch.full((len(images),), torch.inf, dtype=torch.float64)
        self.reached: list[float] = []
        """After each step, the share of images that have reached the goal at the target's threshold."""

    def note(self, images: Tensor, found: Judgement) -> None:
        """Keep the images that are better."""
        losses = self.loss(found)
        better = losses < self.losses
        self.losses = torch.where(better, losses, self.losses)
        better = better.to(images.device)
        self.images[better] = images.detach()[better]
        self.reached.append(float((self.losses < 0).double().mean()))

    def loss(self, found: Judgement) -> Tensor:
        """Below 0 where the goal is reached, lower = better, float64 [N]; units of the spread of normal scores."""
        over = (found.scores.detach() - self.target.threshold) / self.target.spread
        if self.goal == "alarm":
            return torch.where(over > 0, -over, -over + 1e-12)
        over = torch.where(over <= 0, over - 1e-12, over)
        if self.goal == "hide":
            return over
        margin = margins(found.logits.detach(), self.labels)
        return torch.where(margin < 0, over, 1e6 + margin)  # a right class is worse than any score


class Attack(Component, ABC):
    """Looks for images in a ball that reach a goal; what it draws comes from `image_generator`, by the image's id."""

    name: ClassVar[str]
    sees_gradients: ClassVar[bool] = True
    goals: ClassVar[Sequence[Goal]] = ("evade", "hide", "alarm")

    @abstractmethod
    def run(self, best: Best, ball: Ball, ids: Sequence[str], seed: int) -> None:
        """Look once; what is found is noted in `best`."""


@dataclass(frozen=True)
class _Walk(Attack):
    """Projected steps along a direction, from a random place in the ball.

    Args:
        steps: along the direction, each a forward and a backward pass at least.
    """

    steps: PositiveInt = 100

    def run(self, best: Best, ball: Ball, ids: Sequence[str], seed: int) -> None:
        """Walk once."""
        self._walk(best, ball, ball.random(ids, seed), torch.ones(len(ids)).double())

    def _walk(self, best: Best, ball: Ball, images: Tensor, weights: Tensor) -> Tensor:
        """Walk with a weight of the score for each image [N]; say which were misclassified on the way."""
        wrong = torch.zeros(len(images), dtype=torch.bool)
        for step in range(self.steps):
            images = images.detach().requires_grad_()
            found = best.target.follow(images)
            best.note(images, found)
            wrong |= margins(found.logits.detach(), best.labels) < 0
            direction = self._direction(best, images, found, weights)
            share = _FIRST_STEP * (1 + math.cos(math.pi * step / self.steps)) / 2
            images = ball.step(images.detach(), direction, share)
        found = best.target.judge(images)
        best.note(images, found)
        return wrong | (margins(found.logits, best.labels) < 0)

    def _direction(self, best: Best, images: Tensor, found: Judgement, weights: Tensor) -> Tensor:
        """The way to go, of the shape of the images; unless overridden down (or for `alarm` up) the score alone."""
        return _gradient(_score_loss(best, found).sum(), images)


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

    def run(self, best: Best, ball: Ball, ids: Sequence[str], seed: int) -> None:
        """Walk once for each value of λ."""
        start = ball.random(ids, seed)
        weights = torch.ones(len(ids), dtype=torch.float64)
        low, high = torch.zeros_like(weights), torch.full_like(weights, torch.inf)
        for _ in range(self.searches):
            wrong = self._walk(best, ball, start, weights)
            low, high = torch.where(wrong, weights, low), torch.where(wrong, high, weights)
            between = torch.where(low > 0, (low * high).sqrt(), high / 10)
            weights = torch.where(high.isinf(), 10 * low, between)

    def _direction(self, best: Best, images: Tensor, found: Judgement, weights: Tensor) -> Tensor:
        margin = (margins(found.logits, best.labels) + _SURE).clamp_min(0)
        return _gradient((margin + weights * _score_loss(best, found)).sum(), images)


@dataclass(frozen=True)
class Selective(_Walk):
    """Steps down the margin while the class is right, else down the score; with other goals along the score alone.

    Reference:
        Bryniarski et al. 2021, Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent,
        section 4.1.
    """

    name: ClassVar[str] = "selective"

    def _direction(self, best: Best, images: Tensor, found: Judgement, weights: Tensor) -> Tensor:
        loss = _score_loss(best, found)
        if best.goal == "evade":
            margin = margins(found.logits, best.labels)
            loss = torch.where(margin < 0, loss, margin)
        return _gradient(loss.sum(), images)


@dataclass(frozen=True)
class Orthogonal(_Walk):
    """As `Selective`, but without the part of each gradient that lies along the other.

    Reference:
        Bryniarski et al. 2021, section 4.2.
    """

    name: ClassVar[str] = "orthogonal"
    goals: ClassVar[Sequence[Goal]] = ("evade",)

    def _direction(self, best: Best, images: Tensor, found: Judgement, weights: Tensor) -> Tensor:
        margin = margins(found.logits, best.labels)
        of_class = _gradient(margin.sum(), images, keep=True)
        of_score = _gradient(_score_loss(best, found).sum(), images)
        wrong = _as_rows(margin.detach() < 0, images)
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

    def run(self, best: Best, ball: Ball, ids: Sequence[str], seed: int) -> None:
        """Ask `queries` times."""
        streams = [image_generator(seed, f"{name}/queries") for name in ids]
        images = ball.random(ids, seed)
        found = best.target.judge(images)
        best.note(images, found)
        losses = self._loss(best, found)
        height, width = images.shape[-2:]
        for number in range(self.queries):
            share = self.largest * (1 - number / self.queries) ** 2
            side = max(1, round(share * min(height, width)))
            tried = images.clone()
            for row, stream in enumerate(streams):
                top, left = (int(torch.randint(0, size - side + 1, (), generator=stream)) for size in (height, width))
                colours = torch.randint(0, 2, (images.shape[1], 1, 1), generator=stream).to(images) * 2 - 1
                if ball.norm == "l2":
                    colours = colours * ball.radius / side / images.shape[1] ** 0.5
                place = (row, slice(None), slice(top, top + side), slice(left, left + side))
                base = ball.clean if ball.norm == "linf" else images
                tried[place] = base[place] + colours * (ball.radius if ball.norm == "linf" else 1.0)
            tried = ball.project(tried)
            found = best.target.judge(tried)
            best.note(tried, found)
            new = self._loss(best, found)
            better = new < losses
            losses, images = torch.where(better, new, losses), torch.where(_as_rows(better, images), tried, images)

    def _loss(self, best: Best, found: Judgement) -> Tensor:
        score = _score_loss(best, found)
        if best.goal != "evade":
            return score
        margin = margins(found.logits, best.labels)
        return torch.where(margin < 0, score, 1e6 + margin)


ATTACKS: Sequence[Attack] = (Joint(), Selective(), Orthogonal(), Queries())


def _score_loss(best: Best, found: Judgement) -> Tensor:
    """The score in its spread among normal images, float64 [N], lower = better for the attacker."""
    scores = found.scores / best.target.spread
    return -scores if best.goal == "alarm" else scores


def _gradient(loss: Tensor, images: Tensor, keep: bool = False) -> Tensor:
    """The way down; a gradient that is not finite, as that of a length at 0, counts as 0."""
    (gradient,) = torch.autograd.grad(loss, images, retain_graph=keep)
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
