"""Perturbed sources: which perturbations of which normal images an experiment has, and under which ids."""

import difflib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.core import Refusal, named_seed, refused_as
from lightning_gradood.data.datasets import LoadedSource
from lightning_gradood.data.splits import allocate, exact_shares, split_rows
from lightning_gradood.perturbations import FGSM, KINDS, PGD, Perturbation, Semantic, corruptions_at, preset
from lightning_gradood.records import SPLITS


@dataclass(frozen=True)
class PerturbedSource:
    """One perturbation of some normal images: a source whose images are made while probing.

    Args:
        name: The source's name.
        attack: What makes the images: an attack, or a corruption.
        rows: Of which rows of the normal source, ascending.
        ids: `<name>/<key>` of each.
        origins: The ids of the images they are made from; a perturbed image is in the split of its origin.
        adversarial: Whether the classifier is to be misled; `keep` leaves others as they are.
        noise: Whether these are normal images, with Gaussian noise of the attack's L2 norm, rather than anomalies.
        probes: The probes that are read of them; None for all.
    """

    name: str
    attack: Perturbation
    rows: list[int]
    ids: list[str]
    origins: list[str]
    adversarial: bool
    noise: bool = False
    probes: frozenset[str] | None = None

    def describe(self) -> dict[str, object]:
        """JSON-able text of what makes the images from their origins; part of the cache key."""
        ids = hashlib.sha256("\0".join(self.ids).encode()).hexdigest()
        return {"attack": self.attack.describe(), "noise": self.noise, "ids": ids}


@dataclass(frozen=True)
class Perturbations:
    """Anomalies that are made of the normal images: attacks and corruptions, and how their images are treated.

    Args:
        attacks: Attacks by name, or the name of a preset.
        corruptions: Corruptions by name, or a severity 1 … 5 at which all fifteen are taken.
        keep: Which attacked images are detected: `all`, or only the `successful` ones, whose image was classified
            correctly before; then the normal side is those images too (Lee et al. 2018).
        noise_control: Put a copy of each attacked image with Gaussian noise of the attack's L2 norm on the normal side.
        eight_bit: Round attacked and corrupted images to 8 bits a channel, as a file would.
    """

    attacks: dict[str, Perturbation] | Literal["paper", "modern", "pilot"] | None = None
    corruptions: dict[str, Perturbation] | int | None = None
    keep: Literal["all", "successful"] = "all"
    noise_control: bool = False
    eight_bit: bool = False


@dataclass(frozen=True)
class Made:
    """The perturbations of an experiment, by name."""

    attacks: Mapping[str, Perturbation]
    corruptions: Mapping[str, Perturbation]
    noise_control: bool  # whether each attack's noise control joins the normal side
    limits: Mapping[str, int]  # the most images of some of them
    seed: int  # chooses the images where there is a limit
    synthetic: Mapping[str, Perturbation] = field(default_factory=dict)  # outliers that detectors are fitted against
    synthetic_probes: frozenset[str] = frozenset()  # that are read of these

    @classmethod
    def named(cls, given: Perturbations, limits: Mapping[str, int], seed: int, opened: Collection[str] = ()) -> "Made":
        """Resolve the name of a preset and the severity at which all corruptions are taken.

        `limits` may name `opened` sources too, which are limited elsewhere.
        """
        with refused_as(preset="data.perturbations.attacks"):
            attacks = preset(given.attacks) if isinstance(given.attacks, str) else given.attacks or {}
        corruptions = corruptions_at(given.corruptions) if isinstance(given.corruptions, int) else given.corruptions
        made = {*attacks, *(corruptions or {})}
        _say_or_refuse_unmade(set(limits) - made - {*opened}, {*made, *opened}, given.attacks is None)
        limits = {name: limits[name] for name in limits if name in made}
        return cls(attacks, corruptions or {}, given.noise_control, limits, seed)

    @property
    def names(self) -> list[str]:
        """The names of the anomalous ones, attacks first."""
        return [*self.attacks, *self.corruptions]

    @property
    def noise_names(self) -> dict[str, str]:
        """The name of each attack's noise control."""
        return {name: f"{name}.noise" for name in self.attacks} if self.noise_control else {}

    def of(self, normal: LoadedSource, split_of: Mapping[str, str]) -> dict[str, PerturbedSource]:
        """List the perturbed sources of the normal one, each attack's noise control right behind it.

        `split_of` is a split of its ids; a limit takes the same share of each split and class.
        """
        found: dict[str, PerturbedSource] = {}
        for name, attack in {**self.attacks, **self.corruptions}.items():
            rows = self._rows(name, normal, split_of)
            found[name] = _perturbed_source(name, attack, rows, normal, adversarial=name in self.attacks)
            if name in self.noise_names:
                noise = self.noise_names[name]
                found[noise] = _perturbed_source(noise, attack, rows, normal, adversarial=False, noise=True)
        for name, outlier in self.synthetic.items():
            rows = self._rows(name, normal, split_of)
            made = _perturbed_source(name, outlier, rows, normal, adversarial=False)
            found[name] = replace(made, probes=self.synthetic_probes)
        return found

    def _rows(self, name: str, normal: LoadedSource, split_of: Mapping[str, str]) -> list[int]:
        limit = self.limits.get(name, len(normal))
        if name in self.synthetic:
            limit = min(max(_FEWEST_SYNTHETIC, len(normal) // 4), _MOST_SYNTHETIC)
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


_FEWEST_SYNTHETIC = 200  # synthetic outliers of a kind; of more than four times as many images a quarter,
_MOST_SYNTHETIC = 1000  # up to this

BUILT_IN = "builtin_"
"""What the names of built-in probes start with, in every table, figure and file."""

_BUILT_IN_CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression")
_BUILT_IN_SEVERITY = 3


def built_in_probes(seed: int) -> Made:
    """Three attacks and five corruptions of the normal images, to try detectors on where no anomalies are known.

    ε = 8/255 and its steps are those of today's robustness papers; corruptions are those of CIFAR-10-C.
    """
    attacks: dict[str, Perturbation] = {
        "fgsm": FGSM(eps=8 / 255),
        "pgd": PGD(eps=8 / 255, step=2 / 255, steps=10),
        "semantic": Semantic(),
    }
    corruptions = corruptions_at(_BUILT_IN_SEVERITY)
    return Made(
        {f"{BUILT_IN}{name}": attack for name, attack in attacks.items()},
        {f"{BUILT_IN}{kind}": corruptions[kind] for kind in _BUILT_IN_CORRUPTIONS},
        noise_control=False,
        limits={},
        seed=seed,
    )


_PRESETS = ("paper", "modern", "pilot")


def _say_or_refuse_unmade(names: Collection[str], made: Collection[str], without_attacks: bool) -> None:
    """Say that limits of perturbations that were left out are ignored, and refuse those of unknown names.

    An experiment file sets limits beside its attacks, and a flag such as `--data.perturbations.attacks null` takes these away.
    Unknown names are then refused only if they are nearly a known one.
    """
    known = {*made, *(name for one in _PRESETS for name in preset(one)), *KINDS}
    for name in sorted(set(names) - known):
        near = difflib.get_close_matches(name, sorted(known), n=1)
        if near or not without_attacks:
            hint = f"Did you mean `{near[0]}`?" if near else f"Choose among {sorted(made)}."
            raise Refusal(
                f"`limits.sources` should name sources, attacks or corruptions. Got `limits.sources` with {[name]}. {hint}"
            )
    if names:
        rank_zero_info(
            f"Limits of {', '.join(sorted(names))} are ignored: there are no such attacks or corruptions here."
        )


def _perturbed_source(
    name: str, attack: Perturbation, rows: list[int], normal: LoadedSource, adversarial: bool, noise: bool = False
) -> PerturbedSource:
    origins = [normal.ids[row] for row in rows]
    ids = [f"{name}/{origin.removeprefix(f'{normal.name}/')}" for origin in origins]
    return PerturbedSource(name, attack, rows, ids, origins, adversarial, noise)
