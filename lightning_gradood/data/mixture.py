"""The sources of an experiment: opened at first use, compared with each other, limited, perturbed and split."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lightning_gradood.core import (
    PixelLimit,
    Refusal,
    Transform,
    did_you_mean,
    encode,
    named_seed,
    refused_as,
)
from lightning_gradood.data.loading import GIB, Limits, LoadedSource
from lightning_gradood.data.output_names import Outputs, fit_to_outputs, relabelled
from lightning_gradood.data.source import FolderListing, FolderSource, Source
from lightning_gradood.data.splits import (
    Manifest,
    Split,
    allocate,
    exact_shares,
    groups_of,
    make_manifest,
    refuse_two_roles,
    say_duplicates,
    say_shared,
    split_rows,
)
from lightning_gradood.perturbations import FGSM, KINDS, PGD, Perturbation, Semantic, Severity, corruptions_at, preset
from lightning_gradood.records import NORMAL, SPLITS

BUILT_IN = "builtin_"
"""What the names of built-in probes start with, in every table, figure and file."""

Preset = Literal["paper", "modern", "pilot"]
_PRESETS: tuple[Preset, ...] = ("paper", "modern", "pilot")
_LONGEST = 100  # letters of a source's name, which becomes a folder's and a file's
_MEAN = "mean"  # stands for the mean over sources wherever a source's name stands in results
_FEWEST_SYNTHETIC = 200  # synthetic outliers of a kind; of more than four times as many images a quarter,
_MOST_SYNTHETIC = 1000  # up to this


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
    """One perturbation of some normal images: a source whose images are made while probing.

    Args:
        name: The source's name.
        attack: What makes the images: an attack, or a corruption.
        rows: Of which rows of the normal source, ascending.
        origins: The ids of the images they are made from; a perturbed image is in the split of its origin.
        adversarial: Whether the classifier is to be misled; `keep` leaves others as they are.
        eight_bit: Whether its pixels are rounded to 8 bits a channel.
        noise: Whether these are normal images, with Gaussian noise of the attack's L2 norm, rather than anomalies.
        probes: The probes that are read of them; None for all.
    """

    name: str
    attack: Perturbation
    rows: list[int]
    origins: list[str]
    adversarial: bool
    eight_bit: bool = False
    noise: bool = False
    probes: frozenset[str] | None = None

    @cached_property
    def ids(self) -> list[str]:
        """`<name>/<key>` of each image."""
        return [f"{self.name}/{origin.removeprefix(f'{NORMAL}/')}" for origin in self.origins]

    def recipe(self) -> dict[str, object]:
        """JSON-able text of what makes the images from their origins; part of the cache key."""
        ids = hashlib.sha256("\0".join(self.ids).encode()).hexdigest()
        made = {"attack": encode(self.attack), "version": self.attack.version}
        return {**made, "eight_bit": self.eight_bit, "noise": self.noise, "ids": ids}


def open_source(
    name: str,
    source: Source | str,
    transform: Transform | None = None,
    limits: Limits = Limits(),
    outputs: Outputs | None = None,
    flag: str = "",
) -> LoadedSource:
    """Open a source, or the folder of a path; a limit takes a stratified random subset in the source's order.

    Labels become indices into `outputs`, the classifier's outputs by name, see `relabelled` for `flag`.
    """
    with refused_as(root=f"data.{name if name in ('train', NORMAL) else f'anomalies.{name}'}"):
        listing = (FolderSource(source) if isinstance(source, str) else source).open()
    if isinstance(listing, FolderListing):
        for note in listing.notes:
            rank_zero_info(f"{name}: {note}")
        listing = dataclasses.replace(listing, limit=PixelLimit(limits.megapixels, "--data.limits.megapixels"))
    if not listing.keys:
        raise Refusal(f"`{name}` should hold images. Got `{name}` with none. Point it at a source that has some.")
    if outputs and outputs.names and listing.classes != outputs.names:
        listing = relabelled(name, listing, outputs, flag)
    rows = np.arange(len(listing.keys))
    limit = None if name == "train" else (limits.sources or {}).get(name, limits.images)
    if limit is not None and limit < len(rows):
        share = limit / len(rows)
        rows = split_rows(listing.labels, [share, 1 - share], named_seed(limits.seed, f"limit/{name}"))[0]
    return LoadedSource(name, listing, transform, rows, int(limits.memory_gib * GIB))


class Sources:
    """The sources of an experiment: `train`, the clean ones (`normal` first), and the perturbed ones.

    Nothing is read before a source is first asked for. The arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        normal: Source | str,
        anomalies: Mapping[str, Source | str] | None = None,
        train: Source | str | None = None,
        classes: Sequence[str | int] | str | None = None,
        transform: Transform | None = None,
        perturbations: Perturbations = Perturbations(),
        split: Split = Split(),
        limits: Limits = Limits(),
    ) -> None:
        self._train, self._normal, self._anomalies = train, normal, dict(anomalies or {})
        self._transform, self._perturbations, self.split, self.limits = transform, perturbations, split, limits
        given, severity = perturbations.attacks, perturbations.corruptions
        self.attacks = preset(given) if isinstance(given, str) else dict(given or {})
        self.corruptions = corruptions_at(severity) if isinstance(severity, int) else dict(severity or {})
        self.synthetic: dict[str, Perturbation] = {}
        self._synthetic_probes: frozenset[str] = frozenset()
        self.knows_anomalies = True
        """Whether the anomalous sources are the user's, rather than built-in probes."""
        self.output_names = None if classes is None else Outputs.read(classes)
        self.names_of_weights: Outputs | None = None
        """The network's outputs by name, where they came with its weights; set it before a source is opened."""
        self.outputs: int | None = None
        """How many outputs the network has; None until `fit_outputs` is told."""
        noise = [name for attack in self.attacks if (name := self.noise_of(attack))]
        _refuse_names([*self._anomalies, *self.attacks, *self.corruptions, *noise])
        others = {f"data.anomalies.{name}": source for name, source in self._anomalies.items()}
        refuse_two_roles({"data.train": train, "data.normal": normal, **others})
        exact_shares(split.fractions)
        self._check_limits()

    def _check_limits(self) -> None:
        """Say that limits of perturbations that were left out are ignored, and refuse those of unknown names.

        An experiment file sets limits beside its attacks, and `--data.perturbations.attacks null` takes these away.
        Unknown names are then refused only if they are nearly a known one.
        """
        here = {NORMAL, *self.anomaly_names}
        known = {*here, *(name for one in _PRESETS for name in preset(one)), *KINDS}
        ignored = sorted({*(self.limits.sources or {})} - here)
        for name in sorted({*ignored} - known):
            hint = did_you_mean(name, sorted(known))
            if hint or self._perturbations.attacks is not None:
                raise Refusal(
                    f"`limits.sources` should name sources, attacks or corruptions. Got `limits.sources` with {[name]}. "
                    f"{hint or f'Choose among {sorted(here)}.'}"
                )
        if ignored:
            rank_zero_info(
                f"Limits of {', '.join(ignored)} are ignored: there are no such attacks or corruptions here."
            )

    @property
    def has_train(self) -> bool:
        """Whether training images are named."""
        return self._train is not None

    @cached_property
    def train(self) -> LoadedSource:
        """The classifier's training images."""
        if self._train is None:
            raise Refusal(
                "`data.train` should name the classifier's training images. Got `data.train = None`. "
                "Give `data.train`, or give trained weights and use `detect` in place of `fit`."
            )
        return open_source("train", self._train, self._transform, self.limits, *self._named_outputs()).labelled()

    @cached_property
    def normal(self) -> LoadedSource:
        """The normal source; labels index `output_names`, else the training classes, else the names of the weights."""
        after_train = self.output_names is None and self.has_train
        named = (Outputs.of(self.train.classes), "train") if after_train else self._named_outputs()
        normal = open_source(NORMAL, self._normal, self._transform, self.limits, *named)
        if self.has_train:
            self.train.refuse_other_shape(normal)
        return normal

    def _named_outputs(self) -> tuple[Outputs | None, str]:
        """The outputs by name, and the flag that names them; no flag where the names came with the weights."""
        return (self.output_names, "data.classes") if self.output_names else (self.names_of_weights, "")

    @cached_property
    def clean(self) -> dict[str, LoadedSource]:
        """The sources of images that are read as they are, `normal` first."""
        clean = {NORMAL: self.normal}
        for name, anomaly in self._anomalies.items():
            clean[name] = open_source(name, anomaly, self._transform, self.limits)
            clean[name].refuse_other_shape(self.normal)
        return clean

    @cached_property
    def perturbed(self) -> dict[str, PerturbedSource]:
        """What attacks, each with its noise control behind it, corruptions and synthetic outliers make of `normal`."""
        found: dict[str, PerturbedSource] = {}
        # the split of `limits.seed` settles which images a limit takes, so that other splits attack the same ones
        settled = self._manifest({NORMAL: self.normal}, self.limits.seed, {NORMAL: groups_of(self.normal)}).split_of
        for name, attack in {**self.attacks, **self.corruptions, **self.synthetic}.items():
            rows = self._rows(name, settled)
            origins = [self.normal.ids[row] for row in rows]
            self._refuse_empty_split(name, origins)
            rounded, adversarial = self._perturbations.eight_bit, name in self.attacks
            probes = self._synthetic_probes if name in self.synthetic else None
            made = PerturbedSource(name, attack, rows, origins, adversarial, rounded, probes=probes)
            found[name] = made
            if noise := self.noise_of(name):
                found[noise] = dataclasses.replace(made, name=noise, adversarial=False, noise=True)
        return found

    def _rows(self, name: str, split_of: Mapping[str, str]) -> list[int]:
        """The normal images that a perturbation changes: of a limit each split and class gives its share."""
        normal, limit = self.normal, (self.limits.sources or {}).get(name, len(self.normal))
        if name in self.synthetic:
            limit = min(max(_FEWEST_SYNTHETIC, len(normal) // 4), _MOST_SYNTHETIC)
        if limit >= len(normal):
            return list(range(len(normal)))
        splits = np.array([split_of[name] for name in normal.ids])
        shares = exact_shares([limit / len(normal), 1 - limit / len(normal)])
        seed, chosen = named_seed(self.limits.seed, f"limit/{name}"), list[int]()
        parts = [np.flatnonzero(splits == split) for split in SPLITS]
        for part, (taken, _) in zip(parts, allocate([len(part) for part in parts], shares), strict=True):
            if 0 < taken < len(part):
                part = part[split_rows(normal.labels[part], [taken / len(part), 1 - taken / len(part)], seed)[0]]
            chosen += part.tolist() if taken else []
        return sorted(chosen)

    def _refuse_empty_split(self, name: str, origins: Sequence[str]) -> None:
        if (limit := (self.limits.sources or {}).get(name)) is None:
            return
        counts = Counter(self.manifest.split_of[origin] for origin in origins)
        if len(counts) < len(SPLITS):
            raise Refusal(
                f"`limits.sources.{name}` should leave images in every split. Got `limits.sources.{name} = {limit}`, which "
                f"gives {dict(counts)}. Raise it."
            )

    @cached_property
    def manifest(self) -> Manifest:
        """The split of every clean source's images; copies of an image stay together, and are said."""
        groups = {name: groups_of(source) for name, source in self.clean.items()}
        for name, source in self.clean.items():
            say_duplicates(source, groups[name])
            if name != NORMAL:
                say_shared(source, self.normal, f"in `{NORMAL}`", "No detector can tell these apart")
        return self._manifest(self.clean, self.split.seed, groups)

    def _manifest(
        self, sources: Mapping[str, LoadedSource], seed: int, groups: Mapping[str, NDArray[np.int64]]
    ) -> Manifest:
        ids, labels = ({name: getattr(one, kind) for name, one in sources.items()} for kind in ("ids", "labels"))
        return make_manifest(ids, labels, self.split.fractions, seed, groups)

    @property
    def anomaly_names(self) -> list[str]:
        """The names of all anomalous sources, those of attacks and corruptions last."""
        return [*self._anomalies, *self.attacks, *self.corruptions]

    def keep_of(self, source: str) -> Literal["all", "successful"]:
        """Which images of an anomalous source are detected; only attacks can succeed or fail."""
        return self._perturbations.keep if source in self.attacks else "all"

    def noise_of(self, source: str) -> str | None:
        """The name of an attack's noise control, if there is one."""
        return f"{source}.noise" if self._perturbations.noise_control and source in self.attacks else None

    def try_built_in_probes(self) -> None:
        """Where no anomalies are known, try detectors on three attacks and five corruptions in their place.

        ε = 8/255 and its steps are those of today's robustness papers; corruptions are those of CIFAR-10-C.
        """
        if not self.knows_anomalies or self.anomaly_names:
            return
        self.knows_anomalies = False
        attacks = {"fgsm": FGSM(eps=8 / 255), "pgd": PGD(eps=8 / 255, step=2 / 255, steps=10), "semantic": Semantic()}
        self.attacks = {f"{BUILT_IN}{name}": attack for name, attack in attacks.items()}
        kinds, corruptions = (
            ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression"),
            corruptions_at(3),
        )
        self.corruptions = {f"{BUILT_IN}{kind}": corruptions[kind] for kind in kinds}
        vars(self).pop("perturbed", None)

    def make_synthetic(self, outliers: Mapping[str, Perturbation], probes: Sequence[str]) -> None:
        """Make synthetic outliers of normal images, of which `probes` are read, in place of those asked for before."""
        taken = sorted(name for name in outliers if name in self.anomaly_names)
        if taken:
            raise Refusal(
                "`data.anomalies`, attacks and corruptions should not have names of synthetic outliers. "
                f"Got {taken}. Rename them."
            )
        self.synthetic, self._synthetic_probes = dict(outliers), frozenset(probes)
        vars(self).pop("perturbed", None)

    @property
    def _classified(self) -> LoadedSource:
        return self.train if self.has_train else self.normal

    @property
    def classes(self) -> list[str]:
        """Names of the classifier's classes, those of `train`, or else of `normal`; empty where they have none."""
        return self._classified.classes

    @property
    def num_classes(self) -> int | None:
        """The number of classes of `train`, or else of `normal`; None where they have no labels."""
        return self._classified.num_classes

    def fit_outputs(self, outputs: int) -> list[str]:
        """Leave out labels if the network has more outputs than there are classes: which ones these are is not known.

        A single output tells two classes apart. Returns sentences about what was decided and could have been meant
        otherwise; none for a number that is known already.
        """
        if self.outputs == outputs:
            return []
        self.outputs, before = outputs, self.num_classes
        notes = fit_to_outputs(self._classified, outputs, self.output_names)
        if self.num_classes != before:
            for kept in ("manifest", "perturbed"):  # which depend on labels
                vars(self).pop(kept, None)
        return notes


def _refuse_names(anomalies: Iterable[str]) -> None:
    """Refuse names of anomalous sources that would make ids or files ambiguous."""
    anomalies = list(anomalies)
    for name in anomalies:
        if name in ("", NORMAL, _MEAN, ".", "..") or "/" in name or not name.isprintable() or len(name) > _LONGEST:
            raise Refusal(
                f"`anomalies` should have names without a slash, of at most {_LONGEST} letters, other than `{NORMAL}`, "
                f"`{_MEAN}`, `.` and `..`. Got `anomalies` with the name `{name[:_LONGEST].encode('unicode_escape').decode()}`. "
                "Rename that source."
            )
    repeated = sorted({name for name in anomalies if anomalies.count(name) > 1})
    if repeated:
        raise Refusal(
            "`anomalies`, `attacks` and `corruptions` should have different names. "
            f"Got {repeated} more than once. Rename one of them."
        )
