"""Perturbed sources: attacks, corruptions and synthetic outliers of some normal images, and of which."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_gradood.core import encode
from lightning_gradood.data.splits import Rows, allocate, exact_shares, split_rows
from lightning_gradood.perturbations import Perturbation, Severity
from lightning_gradood.records import NORMAL, SPLITS

Preset = Literal["paper", "modern", "pilot"]


@dataclass(frozen=True)
class Perturbations:
    """Attacks and corruptions of the normal images, and how their images are treated.

    Args:
        attacks: Attacks by name, or the name of a preset.
        corruptions: Corruptions by name, or a severity 1 … 5 at which all fifteen are taken.
        keep: Which attacked images are detected: `all`, or only the `successful` ones, whose image was classified
            correctly before; then the normal side is those images too (Lee et al. 2018).
        noise_control: Put a copy of each attacked image with Gaussian noise of the attack's L2 norm on the normal side.
        eight_bit: Round attacked and corrupted images to 8 bits a channel, as a file would.
    """

    attacks: dict[str, Perturbation] | Preset | None = None
    corruptions: dict[str, Perturbation] | Severity | None = None
    keep: Literal["all", "successful"] = "all"
    noise_control: bool = False
    eight_bit: bool = False


@dataclass(frozen=True)
class PerturbedSource:
    """One perturbation of some normal images: a source whose images are made while probing."""

    name: str
    attack: Perturbation
    rows: list[int]  # of the normal source, ascending
    origins: list[str]  # ids of the images they are made from; a perturbed image is in the split of its origin
    adversarial: bool  # whether the classifier is to be misled; `keep` leaves others as they are
    eight_bit: bool = False
    noise: bool = False  # whether these are normal images, with noise of the attack's L2 norm, rather than anomalies
    probes: frozenset[str] | None = None  # that are read of them; None for all

    @cached_property
    def ids(self) -> list[str]:
        """`<name>/<key>` of each image."""
        return [f"{self.name}/{origin.removeprefix(f'{NORMAL}/')}" for origin in self.origins]

    def recipe(self) -> dict[str, object]:
        """JSON-able text of what makes each image from its origin; part of the cache key."""
        made = {"attack": encode(self.attack), "version": self.attack.version}
        return {**made, "eight_bit": self.eight_bit, "noise": self.noise}


def share_of(
    pool: Rows, limit: int, splits: NDArray[np.str_], labels: Sequence[int] | NDArray[Any], seed: int
) -> list[int]:
    """Choose at most `limit` rows of `pool`, of which each split and class gives its share; ascending.

    Args:
        splits, labels: Of every row that there is, [N].
    """
    if limit >= len(pool):
        return [int(row) for row in pool]
    shares, chosen = exact_shares([limit / len(pool), 1 - limit / len(pool)]), list[int]()
    parts = [pool[splits[pool] == split] for split in SPLITS]
    for part, (taken, _) in zip(parts, allocate([len(part) for part in parts], shares), strict=True):
        if 0 < taken < len(part):
            part = part[split_rows(np.asarray(labels)[part], [taken / len(part), 1 - taken / len(part)], seed)[0]]
        chosen += part.tolist() if taken else []
    return sorted(chosen)
