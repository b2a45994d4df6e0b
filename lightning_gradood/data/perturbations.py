"""Perturbed sources: which perturbations of which normal images an experiment has, and under which ids."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_gradood.attacks import FGSM, PGD, Semantic, preset
from lightning_gradood.core import Perturbation, Refusal, named_seed, refused_as
from lightning_gradood.corruptions import corruptions_at
from lightning_gradood.data.classes import Outputs, fit_to_outputs
from lightning_gradood.data.datasets import LoadedSource
from lightning_gradood.data.duplicates import groups_of, say_duplicates, say_shared
from lightning_gradood.data.folder import Opening, refuse_other_shape
from lightning_gradood.data.loaders import labelled
from lightning_gradood.data.settings import given_train, refuse_below
from lightning_gradood.data.source import Source
from lightning_gradood.data.splits import Manifest, allocate, exact_shares, make_manifest, split_rows
from lightning_gradood.records import NORMAL, SPLITS


@dataclass(frozen=True)
class PerturbedSource:
    """One perturbation of some normal images: a source like others, but for its images, which are made while probing.

    Args:
        name: The source's name.
        attack: What makes the images: an attack, or a corruption.
        rows: Of which rows of the normal source, ascending.
        ids: `<name>/<key>` of each.
        origins: The ids of the images they are made from; a perturbed image is in the split of its origin.
        adversarial: Whether the classifier is to be misled; `keep` leaves others as they are.
        noise: Whether these are no anomalies but normal images, with Gaussian noise of the attack's L2 norm.
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
    """The perturbations of an experiment.

    Args:
        attacks: Attacks by name.
        corruptions: Corruptions by name.
        noise_control: Whether each attack's noise control joins the normal side.
        limits: The most images of some of them, by name.
        seed: Chooses the images where there is a limit.
        synthetic: Synthetic outliers by name; no anomalies to be found, but what detectors are fitted against.
        synthetic_probes: The probes that are read of these.
    """

    attacks: Mapping[str, Perturbation]
    corruptions: Mapping[str, Perturbation]
    noise_control: bool
    limits: Mapping[str, int]
    seed: int
    synthetic: Mapping[str, Perturbation] = field(default_factory=dict)
    synthetic_probes: frozenset[str] = frozenset()

    @classmethod
    def named(
        cls,
        attacks: Mapping[str, Perturbation] | str | None,
        corruptions: Mapping[str, Perturbation] | int | None,
        noise_control: bool,
        limits: Mapping[str, int],
        seed: int,
    ) -> "Perturbations":
        """Resolve the name of a preset and the severity at which all corruptions are taken.

        Raises:
            Refusal: There is no such preset or severity, or a limit is below 1 or of a name that is not there.
        """
        with refused_as(preset="data.attacks"):
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

    def of(self, normal: LoadedSource, split_of: Mapping[str, str]) -> dict[str, PerturbedSource]:
        """List the perturbed sources of a source, each attack's noise control right behind it.

        Args:
            normal: The normal source.
            split_of: A split of its ids; a limit takes the same share of each split and class.
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


def built_in_probes(seed: int) -> Perturbations:
    """Three attacks and five corruptions of the normal images, to try detectors on where no anomalies are known.

    Args:
        seed: chooses images where there is a limit, which there is not.

    Reference:
        ε = 8/255 and its steps are those of today's robustness papers; corruptions are those of CIFAR-10-C at severity 3.
    """
    attacks: dict[str, Perturbation] = {
        "fgsm": FGSM(eps=8 / 255),
        "pgd": PGD(eps=8 / 255, step=2 / 255, steps=10),
        "semantic": Semantic(),
    }
    corruptions = corruptions_at(_BUILT_IN_SEVERITY)
    return Perturbations(
        {f"{BUILT_IN}{name}": attack for name, attack in attacks.items()},
        {f"{BUILT_IN}{kind}": corruptions[kind] for kind in _BUILT_IN_CORRUPTIONS},
        noise_control=False,
        limits={},
        seed=seed,
    )


def _perturbed_source(
    name: str, attack: Perturbation, rows: list[int], normal: LoadedSource, adversarial: bool, noise: bool = False
) -> PerturbedSource:
    origins = [normal.ids[row] for row in rows]
    ids = [f"{name}/{origin.removeprefix(f'{normal.name}/')}" for origin in origins]
    return PerturbedSource(name, attack, rows, ids, origins, adversarial, noise)


class ExperimentSources:
    """The sources of an experiment, each opened at first use; `ImageDataModule` sets the attributes and adds loaders."""

    normal: Source | str
    anomalies: dict[str, Source | str]
    train: Source | str | None
    split: tuple[float, float, float]
    split_seed: int
    keep: Literal["all", "successful"]
    limit: int | None
    opening: Opening
    perturbations: Perturbations
    knows_anomalies: bool
    """Whether the anomalous sources are the user's, rather than built-in probes."""
    output_names: Outputs | None
    """The network's outputs by name, where the user names them."""
    names_of_weights: Outputs | None = None
    """The network's outputs by name, where they came with its weights; set it before a source is opened."""
    outputs: int | None = None
    """How many outputs the network has; None until `fit_outputs` is told."""

    @cached_property
    def train_source(self) -> LoadedSource:
        """The classifier's training images.

        Raises:
            Refusal: None are configured, or some have no class.
        """
        named, flag = (self.output_names, "data.classes") if self.output_names else (self.names_of_weights, "")
        return labelled(self.opening.load("train", given_train(self.train), classes=named, flag=flag))

    @cached_property
    def normal_source(self) -> LoadedSource:
        """The normal source; labels are indices into the classes of `output_names`, of the training images, or of the weights."""
        named, flag = self.output_names or self.names_of_weights, "data.classes" if self.output_names else ""
        if self.output_names is None and self.train is not None:
            named, flag = Outputs.of(self.train_source.classes), "train"
        normal = self.opening.load(NORMAL, self.normal, self.limit, named, flag)
        if self.train is not None:
            refuse_other_shape(self.train_source, normal)
        return normal

    @cached_property
    def detection_sources(self) -> dict[str, LoadedSource]:
        """Every source a detector sees, `normal` first; opened at first use.

        Raises:
            Refusal: A source cannot be opened, or its images have another shape than the normal ones.
        """
        sources = {NORMAL: self.normal_source}
        for name, anomaly in self.anomalies.items():
            sources[name] = self.opening.load(name, anomaly, self.limit)
            refuse_other_shape(sources[name], self.normal_source)
        return sources

    @cached_property
    def manifest(self) -> Manifest:
        """The split of every detection source's images.

        Raises:
            Refusal: A source has too few images to fill every split.
        """
        ids = {name: source.ids for name, source in self.detection_sources.items()}
        labels = {name: source.labels for name, source in self.detection_sources.items()}
        return make_manifest(ids, labels, self.split, self.split_seed, self._groups)

    @cached_property
    def _groups(self) -> dict[str, NDArray[np.int64]]:
        """Which images of a source are the same one, which are kept in one split; said where there are any."""
        groups = {name: groups_of(source) for name, source in self.detection_sources.items()}
        for name, source in self.detection_sources.items():
            say_duplicates(source, groups[name])
        say_shared(self.detection_sources)
        return groups

    @cached_property
    def perturbed_sources(self) -> dict[str, PerturbedSource]:
        """The perturbed sources by name: what attacks and corruptions make of the normal images.

        Which images a limit takes is settled by the split of `limit_seed`, so that other splits attack the same ones.

        Raises:
            Refusal: A limit leaves a split without images of an attack or corruption.
        """
        normal = self.normal_source
        settled = make_manifest(
            {NORMAL: normal.ids}, {NORMAL: normal.labels}, self.split, self.opening.seed, {NORMAL: groups_of(normal)}
        )
        made = self.perturbations.of(normal, settled.split_of)
        for name, limit in self.perturbations.limits.items():
            counts = Counter(self.manifest.split_of[origin] for origin in made[name].origins)
            if len(counts) < len(SPLITS):
                raise Refusal(
                    f"`limits.{name}` should leave images in every split. Got `limits.{name} = {limit}`, which gives "
                    f"{dict(counts)}. Raise it."
                )
        return made

    def try_built_in_probes(self) -> None:
        """Where no anomalies are known, take built-in probes of the normal images in their place; see `built_in_probes`."""
        if self.knows_anomalies and not self.anomaly_names:
            self.knows_anomalies = False
            self.perturbations = built_in_probes(self.opening.seed)
            vars(self).pop("perturbed_sources", None)

    def make_synthetic(self, outliers: Mapping[str, Perturbation], probes: Sequence[str]) -> None:
        """Make synthetic outliers of normal images, in place of those asked for before.

        Args:
            outliers: by name, as sources and in the column `attack`.
            probes: what is read of them.

        Raises:
            Refusal: a source has one of these names.
        """
        taken = sorted({*outliers} & {*self.anomaly_names, *self.perturbations.noise_names.values()})
        if taken:
            raise Refusal(
                "`data.anomalies`, attacks and corruptions should not have names of synthetic outliers. "
                f"Got {taken}. Rename them."
            )
        self.perturbations = replace(self.perturbations, synthetic=outliers, synthetic_probes=frozenset(probes))
        vars(self).pop("perturbed_sources", None)

    @property
    def anomaly_names(self) -> list[str]:
        """The names of all anomalous sources, those of attacks and corruptions last."""
        return [*self.anomalies, *self.perturbations.names]

    def keep_of(self, source: str) -> Literal["all", "successful"]:
        """Which images of an anomalous source are detected; only attacks can succeed or fail."""
        return self.keep if source in self.perturbations.attacks else "all"

    def noise_of(self, source: str) -> str | None:
        """The name of an attack's noise control, if there is one."""
        return self.perturbations.noise_names.get(source)

    @property
    def classes(self) -> list[str]:
        """Names of the classifier's classes, those of `train`, or else of `normal`; empty where they have none."""
        return (self.normal_source if self.train is None else self.train_source).classes

    @property
    def num_classes(self) -> int | None:
        """The number of classes of `train`, or else of `normal`; None where they have no labels."""
        return (self.normal_source if self.train is None else self.train_source).num_classes

    def fit_outputs(self, outputs: int) -> list[str]:
        """Leave out labels that cannot be outputs of the network: of fewer classes than it has, nobody knows which ones they are.

        Args:
            outputs: how many the network has; a single one tells two classes apart.

        Returns:
            Sentences about what was decided and a user could have meant otherwise; none for a number that is known already.

        Raises:
            Refusal: `data.classes` names another number of outputs.
        """
        if self.outputs == outputs:
            return []
        self.outputs = outputs
        source = self.normal_source if self.train is None else self.train_source
        before = source.num_classes
        notes = fit_to_outputs(source, outputs, self.output_names)
        if source.num_classes != before:
            for kept in ("manifest", "perturbed_sources"):  # which depend on labels
                vars(self).pop(kept, None)
        return notes
