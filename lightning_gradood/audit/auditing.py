"""The audit: attacks at several radii, judged by the guard itself, with checks that the attacks were strong enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

import lightning_gradood
from lightning_gradood.audit.attacks import ATTACKS, Attack, Ball, Best, Goal, Norm
from lightning_gradood.audit.target import Target
from lightning_gradood.core import (
    Component,
    FinitePositive,
    OpenUnitInterval,
    PositiveInt,
    Refusal,
    Seed,
    atomic_write,
    encode,
    evaluating,
    exact_arithmetic,
    progress,
    read_json,
    requiring_grad,
)
from lightning_gradood.metrics import auroc, binomial_interval, conformal_threshold

CARD = "robustness.json"
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
RATES = (0.01, 0.05)
_FEW = 32  # images for checks
_HELD = 0.1  # at most this share more, by its 95 % interval, counts as withstood
_CLEAN, _NOISE, _ALL = "none", "noise", "all"


class Judged(NamedTuple):
    """What the guard says of N images: predicted classes int64, and scores float64, higher = more anomalous."""

    predictions: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Reached:
    """What one attack reached at one radius; `all` is the best of all for each image, `none` the clean images.

    Args:
        attack, radius: its name, and the largest change.
        shares: of images that reached the goal, by the false-positive rate at which the guard flags.
        intervals: 95 % of each share (Clopper and Pearson).
        misclassified: share of images, flagged or not, whose class is not the label.
        auroc: of attacked images against the clean ones, for `hide` against calibration images; near or below 0.5 the score
            tells nothing of the attack.
        by_step: share at the largest rate after each look of the attack.
    """

    attack: str
    radius: float
    shares: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    misclassified: float
    auroc: float | None
    by_step: Sequence[float] = ()


@dataclass(frozen=True)
class Check:
    """One sign that attacks are strong enough: its question, and whether the answer is as it should be."""

    question: str
    passed: bool


@dataclass(frozen=True)
class Robustness:
    """A robustness card: what attackers who know the guard reached, and what a user may rely on.

    Args:
        detector: of the guard, `<detector>@<digest>` as in its score tables.
        goal, norm: see `Goal` and `Norm`.
        images: how many were attacked; `labelled`: whether with their own labels or the network's predictions.
        restarts, seed, attacks: the settings.
        rows: for each attack and radius.
        checks: of the attacks' strength.
        sentence: what a user may rely on.
        date, version: of the audit.
    """

    detector: str
    goal: Goal
    norm: Norm
    images: int
    labelled: bool
    restarts: int
    seed: int
    attacks: Sequence[Mapping[str, Any]]
    rows: Sequence[Reached]
    checks: Sequence[Check]
    sentence: str
    date: str
    version: str

    def save(self, folder: str | Path) -> Path:
        """Write `robustness.json` into a guard's folder; an older card there is replaced."""
        place = Path(folder) / CARD
        with atomic_write(place, "--guard") as file:
            file.write((json.dumps(asdict(self), indent=1) + "\n").encode())
        return place

    @classmethod
    def load(cls, folder: str | Path) -> Self | None:
        """Read a guard's card; None where it has none."""
        place = Path(folder) / CARD
        if not place.is_file():
            return None
        try:
            read: Any = read_json(place)
            rows, checks = [Reached(**one) for one in read.pop("rows")], [Check(**one) for one in read.pop("checks")]
            return cls(rows=rows, checks=checks, **read)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refusal(
                f"{place} should be a card that `attack` has written. Got {error}. Remove it, or attack again."
            ) from error

    def share(self, radius: float, attack: str = _ALL) -> float:
        """Share of images that reached the goal at the largest false-positive rate."""
        found = next(one for one in self.rows if one.attack == attack and one.radius == radius)
        return found.shares[max(found.shares, key=float)]


@dataclass(frozen=True)
class Audit(Component):
    """What is attacked, how far and how hard.

    Args:
        goal: see `Goal`.
        radii: largest changes, in the measure of `norm`, of pixels in [0, 1]; at most 1 for `linf`.
        norm: see `Norm`.
        attacks: each looks in each ball; those that have no such goal are left out.
        restarts: how often each looks, from other places.
        rates: false-positive rates at which images count as flagged; attacks stay below the threshold of the largest. By
            default, where a guard is audited, those of `RATES` that its calibration images allow, else its own.
        batch_size: images attacked together, which bounds the memory.
        seed: of places to start from, by image and restart.
    """

    goal: Goal = "evade"
    radii: Sequence[FinitePositive] = RADII
    norm: Norm = "linf"
    attacks: Sequence[Attack] = ATTACKS
    restarts: PositiveInt = 1
    rates: Sequence[OpenUnitInterval] = ()
    batch_size: PositiveInt = 8
    seed: Seed = 0

    def __post_init__(self) -> None:
        if bad := [one for one in self.radii if not 0 < one <= (1 if self.norm == "linf" else np.inf)]:
            grey = f"If {bad[0]:g} of 255 grey levels are meant, write {bad[0] / 255:.5f}." * (bad[0] > 0)
            raise Refusal(
                f"`--eps` should be above 0 and at most 1, as pixels are in [0, 1]. Got {bad[0]:g}. {grey}".rstrip()
            )
        if not self.chosen:
            raise Refusal(
                f"`--attacks` should have one for `{self.goal}`. Got {[one.name for one in self.attacks]}. Leave it out."
            )

    @property
    def chosen(self) -> list[Attack]:
        """The attacks that have this goal."""
        return [one for one in self.attacks if self.goal in one.goals]

    def run(
        self, target: Target, images: Tensor, labels: Tensor | None, verdict: Callable[[Tensor], Judged]
    ) -> Robustness:
        """Attack a guard and say what was reached.

        Args:
            target: whose threshold is that of the largest of `rates`.
            images: clean ones, or for `hide` anomalous ones, float [N, C, H, W] in [0, 1], as the network takes them.
            labels: int64 [N]; None for the network's own predictions.
            verdict: judges attacked images as the guard does.
        """
        clean = verdict(images)
        kept = torch.from_numpy(clean.predictions).to(images.device) if labels is None else labels
        work = _Work(self, target, images, kept, verdict, clean)
        rows = [work.row(_CLEAN, 0.0, clean)]
        found: dict[float, list[Judged]] = {radius: [] for radius in sorted(self.radii)}
        bests = [(attack, work.best()) for attack in self.chosen]  # what is found in a ball is in all larger ones
        looks = [(radius, attack, best) for radius in found for attack, best in bests]
        for radius, attack, best in progress(looks, "attacking", len(looks), "attacks"):
            steps = work.attack(attack, radius, best)
            found[radius].append(verdict(best.images))
            rows.append(replace(work.row(attack.name, radius, found[radius][-1]), by_step=steps))
        rows += [work.row(_ALL, radius, work.best_of(several)) for radius, several in found.items()]
        rows.append(work.row(_NOISE, max(self.radii), work.noise()))
        checks = list(work.checks(rows))
        return Robustness(
            detector=target.name,
            goal=self.goal,
            norm=self.norm,
            images=len(images),
            labelled=labels is not None,
            restarts=self.restarts,
            seed=self.seed,
            attacks=[encode(one) for one in self.chosen],
            rows=rows,
            checks=checks,
            sentence=_sentence(rows, self.goal, self.norm, checks),
            date=datetime.now(UTC).date().isoformat(),
            version=lightning_gradood.__version__,
        )


@dataclass
class _Work:
    """One audit's images, and the best found at each radius."""

    settings: Audit
    target: Target
    images: Tensor
    labels: Tensor
    verdict: Callable[[Tensor], Judged]
    clean: Judged

    def __post_init__(self) -> None:
        rates = self.settings.rates
        self.thresholds = {f"{rate:g}": conformal_threshold(self.target.calibration, rate) for rate in rates}

    def best(self, rows: slice = slice(None)) -> Best:
        """Clean images, as the best so far."""
        with self._frozen():
            return Best(self.target, self.settings.goal, self.images[rows], self.labels[rows])

    def attack(self, attack: Attack, radius: float, best: Best) -> list[float]:
        """Attack the images of `best` that are not settled; return the share that has reached the goal after each look."""
        number, before, gains = len(best.images), best.reached(), list[list[int]]()
        ball = Ball(self.images[:number], radius, self.settings.norm)
        with self._frozen():
            left = best.open(torch.arange(number))
            for first in range(0, len(left), self.settings.batch_size):
                rows = left[first : first + self.settings.batch_size]
                start, restarts = best.reached(), range(self.settings.restarts)
                looks = (attack.run(best, ball, rows, one, self.settings.seed) for one in restarts)
                gains.append([best.reached() - start for _ in chain.from_iterable(looks)])
        return [(before + sum(several)) / number for several in zip(*gains, strict=True)] or [before / number]

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        network = self.target.network
        with exact_arithmetic(), evaluating(network), requiring_grad(network.parameters(), False):
            yield

    def best_of(self, several: Sequence[Judged]) -> Judged:
        """Of each image the best that any attack found: of those with the wrong class, for `evade`, the lowest score."""
        predictions, scores = np.stack([one.predictions for one in several]), np.stack([one.scores for one in several])
        losses = -scores if self.settings.goal == "alarm" else scores
        if self.settings.goal == "evade":
            losses = np.where(predictions == self.labels.cpu().numpy(), np.inf, losses)
        choice = losses.argmin(axis=0), np.arange(len(self.images))
        return Judged(predictions[choice], scores[choice])

    def noise(self) -> Judged:
        """What the guard says of noise of the largest radius."""
        ball = Ball(self.images, max(self.settings.radii), self.settings.norm)
        return self.verdict(ball.random(torch.arange(len(self.images)), "noise", self.settings.seed))

    def reached(self, found: Judged, threshold: float) -> np.ndarray:
        """Which images have reached the goal, bool [N]."""
        if self.settings.goal == "alarm":
            return np.asarray(found.scores > threshold)
        return np.asarray((found.scores <= threshold) & (self._wrong(found) | (self.settings.goal == "hide")))

    def row(self, name: str, radius: float, found: Judged) -> Reached:
        """The shares of one attack at one radius."""
        counts = {rate: int(self.reached(found, threshold).sum()) for rate, threshold in self.thresholds.items()}
        number, area, hiding = len(self.images), None, self.settings.goal == "hide"
        if name != _CLEAN or hiding:
            normal = self.target.calibration if hiding else self.clean.scores
            area = auroc(np.concatenate([normal, found.scores]), np.repeat([0, 1], [len(normal), number]))
        shares = {rate: count / number for rate, count in counts.items()}
        intervals = {rate: binomial_interval(count, number) for rate, count in counts.items()}
        return Reached(name, radius, shares, intervals, float(self._wrong(found).mean()), area)

    def _wrong(self, found: Judged) -> np.ndarray:
        return np.asarray(found.predictions != self.labels.cpu().numpy())

    def checks(self, rows: Sequence[Reached]) -> Iterator[Check]:
        """Signs that the attacks are as strong as they should be, at the largest radius."""
        radius, chosen = max(self.settings.radii), self.settings.chosen
        share = {one.attack: max(one.shares.values()) for one in rows if one.radius == radius}
        yield Check("Is noise of the same size worse than the attacks?", share[_NOISE] <= share[_ALL])
        walks: list[Any] = [one for one in chosen if one.sees_gradients]
        if not walks:
            return
        blind = [share[one.name] for one in chosen if not one.sees_gradients]
        seeing = max(share[one.name] for one in walks)
        yield Check("Do attacks without gradients stay behind those with?", not blind or max(blind) <= seeing)
        strongest = max(walks, key=lambda one: share[one.name])
        everything = 1.0 if self.settings.norm == "linf" else float(self.images[0].numel() ** 0.5)
        unbounded = self._few(strongest, everything)
        yield Check("Does an attack without a bound reach every image?", unbounded == 1)
        fewer = strongest.with_steps(max(1, strongest.steps // 4))
        few, many = (self._few(attack, radius) for attack in (fewer, strongest))
        yield Check("Do more steps reach as many images or more?", few <= many)
        yield Check("Does the score have a slope at the images?", self._slope() == 1)

    def _few(self, attack: Attack, radius: float) -> float:
        """The share of a few images that an attack reaches at the target's threshold."""
        best = self.best(slice(0, _FEW))
        return self.attack(attack, radius, best)[-1]

    def _slope(self) -> float:
        """Share of a few images where the score's gradient is finite and not 0."""
        images = self.images[:_FEW].clone().requires_grad_()
        with self._frozen():
            (gradient,) = torch.autograd.grad(self.target.follow(images).scores.sum(), images)
        sizes = gradient.flatten(1).abs().amax(dim=1)
        return float((sizes.isfinite() & (sizes > 0)).double().mean())


def _sentence(rows: Sequence[Reached], goal: Goal, norm: Norm, checks: Sequence[Check]) -> str:
    """What a user may rely on."""
    rate = max(rows[0].shares, key=float)
    before = rows[0].shares[rate]
    worst = sorted((one for one in rows if one.attack == _ALL), key=lambda one: one.radius)
    held = [one for one in worst if one.intervals[rate][1] <= before + _HELD]
    told = held[-1] if held else worst[0]
    what = {"evade": "makes the classifier err unflagged on", "hide": "hides", "alarm": "raises a false alarm for"}
    unit = "per pixel" if norm == "linf" else "in Euclidean length"
    low, high = told.intervals[rate]
    found = (
        f"a change of {told.radius:.4f} {unit} {what[goal]} {told.shares[rate]:.0%} of the images (95 % interval {low:.0%} to "
        f"{high:.0%}; {before:.0%} without a change) at a false-positive rate of {float(rate):g}"
    )
    weak = "" if all(one.passed for one in checks) else " The audit is too weak to rely on: a check failed."
    if held:
        return (
            f"Of an attacker who knows this guard, {found}; nothing is known of larger changes or other attacks.{weak}"
        )
    return f"Do not rely on this guard against an attacker who knows it: {found}.{weak}"
