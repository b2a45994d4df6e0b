"""Do random scores withstand an attacker who knows the guard? Smoothing, random views and a random detector, attacked.

    python -m benchmarks.defences --guard runs/a/guard --normal data/normal --images data/attacked --defence noise

Each image is scored `--draws` times with other noise (`noise`) or another flip and shift (`views`) and the median counts
(Cohen et al. 2019 smooth classifiers so), or `spread`, the median absolute deviation; or each image is scored by one of
several guards of one network, drawn anew each time (`choice`). The attacker follows the mean over fresh draws (expectation
over transformation, Athalye et al. 2018), and is judged by fresh draws. The threshold is calibrated on `--normal`, scored
in the same way; `none` is the guard as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.audit import ATTACKS, Audit, Judged, Judgement, Target
from lightning_gradood.core import as_float, evaluating, to_float64
from lightning_gradood.guard import Guard, image_paths
from lightning_gradood.report import card_table

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Smoothed(Target):
    """Scores each image `draws` times, after another random change each time.

    Args:
        change: of a batch of images.
        told: the median of the draws, or their spread.
        followed: what an attacker differentiates in its place.
    """

    change: Scores
    told: Scores
    followed: Scores
    draws: int

    @override
    def follow(self, images: Tensor) -> Judgement:
        scores = [super(Smoothed, self).follow(self.change(images)).scores for _ in range(self.draws)]
        return Judgement(to_float64(self.network(images)).cpu(), self.followed(torch.stack(scores)))

    @override
    def judge(self, images: Tensor) -> Judgement:
        scores = [super(Smoothed, self).judge(self.change(images)).scores for _ in range(self.draws)]
        return Judgement(super().judge(images).logits, self.told(torch.stack(scores)))


@dataclass(frozen=True)
class Chosen(Target):
    """Scores each image by one of several guards of one network, drawn anew each time, in units of their normal scores."""

    several: Sequence[Target]

    @override
    def follow(self, images: Tensor) -> Judgement:
        logits, scores = self._all([one.follow(images) for one in self.several])
        return Judgement(logits, scores.mean(dim=0))

    @override
    def judge(self, images: Tensor) -> Judgement:
        logits, scores = self._all([one.judge(images) for one in self.several])
        return Judgement(logits, scores.gather(0, torch.randint(0, len(scores), (1, len(images))))[0])

    def _all(self, found: Sequence[Judgement]) -> Judgement:
        """The logits, and the scores of all guards, [guards, N]."""
        middles = [float(np.median(one.calibration)) for one in self.several]
        parts = zip(found, middles, self.several, strict=True)
        return Judgement(found[0].logits, torch.stack([(one.scores - middle) / of.spread for one, middle, of in parts]))


def views(images: Tensor) -> Tensor:
    """Shift images by up to a sixteenth of their width, and flip them in half of the cases."""
    reach = max(1, images.shape[-1] // 16)
    padded = torch.nn.functional.pad(images, [reach] * 4, mode="reflect")
    down, right = torch.randint(0, 2 * reach + 1, (2,)).tolist()
    moved = padded[..., down : down + images.shape[-2], right : right + images.shape[-1]]
    return moved.flip(-1) if torch.rand(()) < 0.5 else moved


def median(scores: Tensor) -> Tensor:
    """Of the draws, [draws, N] -> [N]."""
    return scores.median(dim=0).values


def deviation(scores: Tensor) -> Tensor:
    """Median absolute deviation of the draws, [draws, N] -> [N]."""
    return median((scores - median(scores)).abs())


def defended(targets: Sequence[Target], defence: str, sigma: float, draws: int) -> Target:
    """The first guard with a defence, its threshold not calibrated yet."""

    def noise(images: Tensor) -> Tensor:
        return (images + sigma * torch.randn_like(images)).clamp(0, 1)

    mean, spread, plain = partial(torch.mean, dim=0), partial(torch.std, dim=0), vars(targets[0])
    if defence == "choice":
        return Chosen(**plain, several=targets)
    if defence == "spread":
        return Smoothed(**plain, change=noise, told=deviation, followed=spread, draws=draws)
    return Smoothed(**plain, change={"noise": noise, "views": views}[defence], told=median, followed=mean, draws=draws)


def main() -> None:
    """Attack, and print the card's table and sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guard", nargs="+", required=True, help="of one network; several for `choice`")
    parser.add_argument("--normal", nargs="+", required=True, help="images that calibrate the threshold")
    parser.add_argument("--images", nargs="+", required=True, help="attacked, in folders named like their classes")
    parser.add_argument("--defence", choices=["none", "noise", "spread", "views", "choice"], default="noise")
    parser.add_argument("--sigma", type=float, default=8 / 255)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--eps", type=float, nargs="+", default=[2 / 255, 8 / 255])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--attacks", nargs="+", default=["selective", "orthogonal"])
    settings = parser.parse_args()
    torch.manual_seed(0)
    guards = [Guard.load(one) for one in settings.guard]
    targets = [
        Target(one.network, one.probes, one.fitted, one.calibration, 0.05, one.about.detector_name) for one in guards
    ]
    target = targets[0]
    if settings.defence != "none":
        target = defended(targets, settings.defence, settings.sigma, settings.draws)
        with evaluating(target.network):
            calibration = [target.judge(part).scores for part in read(guards[0], settings.normal).split(64)]
        target = replace(target, calibration=torch.cat(calibration).numpy())
    paths = sorted(image_paths(settings.images))
    paths = paths[:: max(1, len(paths) // settings.limit)][: settings.limit]
    labels = torch.tensor([list(guards[0].about.classes).index(Path(path).parent.name) for path in paths])

    def verdict(images: Tensor) -> Judged:
        with evaluating(target.network):
            found = [target.judge(part) for part in images.split(64)]
        logits, scores = torch.cat([one.logits for one in found]), torch.cat([one.scores for one in found])
        return Judged(logits.argmax(dim=1).numpy(), scores.numpy())

    attacks = [one.with_steps(settings.steps) for one in ATTACKS if one.name in settings.attacks]
    card = Audit(radii=settings.eps, attacks=attacks, rates=[0.01, 0.05]).run(
        target, read(guards[0], paths), labels, verdict
    )
    print(f"{settings.defence}, {' '.join(settings.guard)}\n{card_table(card).text()}\n{card.sentence}")
    print(tabulate([[one.question, one.passed] for one in card.checks]))


def read(guard: Guard, places: Sequence[str]) -> Tensor:
    """Images as the network takes them, float32 [N, C, H, W]."""
    return torch.stack(
        [as_float(guard.read(path)).float() for path in sorted(image_paths([str(one) for one in places]))]
    )


if __name__ == "__main__":
    main()
