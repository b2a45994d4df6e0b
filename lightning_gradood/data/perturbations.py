"""Perturbed versions of the normal images: which there are, of which images, and under which ids."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightning_gradood.attacks import Attack, preset
from lightning_gradood.corruptions import corruptions_at
from lightning_gradood.data.loaded import LoadedSource
from lightning_gradood.data.settings import refuse_below
from lightning_gradood.data.splits import allocate, exact_shares, named_seed, split_rows
from lightning_gradood.errors import Refusal
from lightning_gradood.records import SPLITS


@dataclass(frozen=True)
class Twins:
    """One perturbation of some normal images: a source like others, but for its images, which are made while probing.

    Args:
        name: The source's name.
        attack: What makes the images: an attack, or a corruption.
        rows: Of which rows of the normal source, ascending.
        ids: `<name>/<key>` of each.
        origins: The ids of the images they are made from; a twin is in the split of its origin.
        adversarial: Whether the classifier is to be misled; `keep` leaves others as they are.
        noise: Whether these are no anomalies but normal images, with Gaussian noise of the attack's L2 norm.
    """

    name: str
    attack: Attack
    rows: list[int]
    ids: list[str]
    origins: list[str]
    adversarial: bool
    noise: bool = False

    def describe(self) -> dict[str, object]:
        """JSON-able text of what makes the images from their origins; part of the cache key."""
        ids = hashlib.sha256("\0".join(self.ids).encode()).hexdigest()
        return {"attack": self.attack.describe(), "noise": self.noise, "ids": ids}


@dataclass(frozen=True)
class Perturbations:
    """What is made of the normal images.

    Args:
        attacks: Attacks by name.
        corruptions: Corruptions by name.
        noise_control: Whether each attack's noise control joins the normal side.
        limits: The most twins of some of them, by name.
        seed: Chooses the images where there is a limit.
    """

    attacks: Mapping[str, Attack]
    corruptions: Mapping[str, Attack]
    noise_control: bool
    limits: Mapping[str, int]
    seed: int

    @classmethod
    def named(
        cls,
        attacks: Mapping[str, Attack] | str | None,
        corruptions: Mapping[str, Attack] | int | None,
        noise_control: bool,
        limits: Mapping[str, int],
        seed: int,
    ) -> "Perturbations":
        """Resolve the name of a preset and the severity at which all corruptions are taken.

        Raises:
            Refusal: There is no such preset or severity, or a limit is below 1 or of a name that is not there.
        """
        attacks = preset(attacks) if isinstance(attacks, str) else attacks or {}
        corruptions = corruptions_at(corruptions) if isinstance(corruptions, int) else corruptions or {}
        refuse_below(1, **limits)
        unknown = sorted(set(limits) - {*attacks, *corruptions})
        if unknown:
            raise Refusal(
                f"`limits` should name attacks or corruptions. Got `limits` with {unknown}. "
                f"Choose among {[*attacks, *corruptions]}."
            )
        return cls(attacks, corruptions, noise_control, limits, seed)

    @property
    def names(self) -> list[str]:
        """The names of the anomalous ones, attacks first."""
        return [*self.attacks, *self.corruptions]

    @property
    def noise_names(self) -> dict[str, str]:
        """The name of each attack's noise control."""
        return {name: f"{name}.noise" for name in self.attacks} if self.noise_control else {}

    def of(self, normal: LoadedSource, split_of: Mapping[str, str]) -> dict[str, Twins]:
        """List the twins of a source, each attack's noise control right behind it.

        Args:
            normal: The normal source.
            split_of: A split of its ids; a limit takes the same share of each split and class.
        """
        found: dict[str, Twins] = {}
        for name, attack in {**self.attacks, **self.corruptions}.items():
            rows = self._rows(name, normal, split_of)
            found[name] = _twins(name, attack, rows, normal, adversarial=name in self.attacks)
            if name in self.noise_names:
                noise = self.noise_names[name]
                found[noise] = _twins(noise, attack, rows, normal, adversarial=False, noise=True)
        return found

    def _rows(self, name: str, normal: LoadedSource, split_of: Mapping[str, str]) -> list[int]:
        limit = self.limits.get(name, len(normal))
        if limit >= len(normal):
            return list(range(len(normal)))
        splits = np.array([split_of[name] for name in normal.ids])
        shares = exact_shares([limit / len(normal), 1 - limit / len(normal)])
        seed, chosen = named_seed(self.seed, f"limit/{name}"), list[int]()
        parts = [np.flatnonzero(splits == split) for split in SPLITS]
        for part, (taken, _) in zip(parts, allocate([len(part) for part in parts], shares), strict=True):
            if 0 < taken < len(part):
                part = part[split_rows(normal.labels[part], [taken / len(part), 1 - taken / len(part)], seed)[0]]
            chosen += part.tolist() if taken else []
        return sorted(chosen)


def _twins(
    name: str, attack: Attack, rows: list[int], normal: LoadedSource, adversarial: bool, noise: bool = False
) -> Twins:
    origins = [normal.ids[row] for row in rows]
    ids = [f"{name}/{origin.removeprefix(f'{normal.name}/')}" for origin in origins]
    return Twins(name, attack, rows, ids, origins, adversarial, noise)
