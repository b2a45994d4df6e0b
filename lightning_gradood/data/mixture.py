"""The sources of an experiment: opened at first use, compared with each other, limited, perturbed and split."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lightning_gradood.core import PixelLimit, Refusal, Transform, did_you_mean, named_seed, refused_as
from lightning_gradood.data.given_sources import (
    PARTS,
    Given,
    PartsListing,
    given_parts,
    refuse_groups,
    refuse_names,
    refuse_two_roles,
    splits_by_part,
)
from lightning_gradood.data.loading import GIB, Limits, LoadedSource, readable_rows
from lightning_gradood.data.output_names import Outputs, fit_to_outputs, relabelled
from lightning_gradood.data.perturbed import Perturbations, PerturbedSource, share_of
from lightning_gradood.data.source import FolderListing, GivenSource, Listing, Source
from lightning_gradood.data.splits import (
    Budget,
    Manifest,
    Rows,
    Split,
    drawn_splits,
    exact_shares,
    in_proportion,
    split_rows,
)
from lightning_gradood.perturbations import FGSM, KINDS, PGD, Perturbation, Semantic, corruptions_at, preset
from lightning_gradood.records import NORMAL, SPLITS

BUILT_IN = "builtin_"
"""What the names of built-in anomalies start with, in every table, figure and file."""


def open_source(
    name: str,
    source: Given,
    transform: Transform | None = None,
    limits: Limits = Limits(),
    outputs: Outputs | None = None,
    flag: str = "",
    skip: bool = False,
) -> LoadedSource:
    """Open a source, the folder of a path, or parts; a limit takes a stratified random subset in the source's order.

    Labels become indices into `outputs`, the classifier's outputs by name, see `relabelled` for `flag`; `skip` leaves out
    images that cannot be read.
    """
    given = given_parts(f"data.{name if name in ('train', NORMAL) else f'anomalies.{name}'}", source)
    listings = [_listing(name, flag, one, limits) for flag, one in given.items()]
    listing = listings[0]
    if isinstance(source, Mapping):
        listing = PartsListing.of(name, dict(zip(source, listings, strict=True)))
    if outputs and outputs.names and listing.classes != outputs.names:
        listing = relabelled(name, listing, outputs, flag)
    rows = np.arange(len(listing.keys))
    limit = None if name == "train" else (limits.sources or {}).get(name, limits.images)
    if limit is not None and limit < len(rows):
        share = limit / len(rows)
        order = ["", *PARTS]
        strata = [order.index(listing.part(row)) * 10**9 + label for row, label in enumerate(listing.labels)]
        rows = split_rows(strata, [share, 1 - share], named_seed(limits.seed, f"limit/{name}"))[0]
    rows = readable_rows(name, listing, rows) if skip else rows
    return LoadedSource(name, listing, transform, rows, int(limits.memory_gib * GIB))


def _listing(name: str, flag: str, source: Source, limits: Limits) -> Listing:
    with refused_as(root=flag, dataset=flag):
        listing = source.open()
    if isinstance(listing, FolderListing):
        for note in listing.notes:
            rank_zero_info(f"{name}: {note}")
        listing = dataclasses.replace(listing, limit=PixelLimit(limits.megapixels, "--data.limits.megapixels"))
    if not listing.keys:
        raise Refusal(f"`{name}` should hold images. Got `{name}` with none. Point it at a source that has some.")
    return listing


_FEWEST_SYNTHETIC = 200  # synthetic outliers of a kind; of more than four times as many images a quarter,
_MOST_SYNTHETIC = 1000  # up to this; those of `train` are made,
_WITH_SYNTHETIC = 1000  # and of the images that a budget takes first, so many of each split
_OF_LABELS = ("_whole", "_ordered", "manifest", "perturbed")  # what depends on labels


class Sources:
    """The training, clean (`normal` first) and perturbed sources of `ImageDataModule`'s arguments, read when first asked for."""

    def __init__(
        self,
        normal: Given,
        anomalies: Mapping[str, Given] | None = None,
        train: GivenSource | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        transform: Transform | None = None,
        perturbations: Perturbations = Perturbations(),
        split: Split = Split(),
        limits: Limits = Limits(),
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._train, self._normal, self._anomalies = train, normal, dict(anomalies or {})
        self._transform, self._perturbations, self.split, self.limits = transform, perturbations, split, limits
        given, severity = perturbations.attacks, perturbations.corruptions
        self.attacks = preset(given) if isinstance(given, str) else dict(given or {})
        self.corruptions = corruptions_at(severity) if isinstance(severity, int) else dict(severity or {})
        self.synthetic: dict[str, Perturbation] = {}
        self._synthetic_probes: frozenset[str] = frozenset()
        self.training_probes: frozenset[str] = frozenset()
        """What is read of training images; nothing where no detector is fitted on them."""
        self._per_class: int | None = None
        self.budget = Budget()
        """How many images are read; all, unless `take` was told otherwise."""
        self.has_train = train is not None
        self.skip_unreadable = False  # rather than refuse images that cannot be read
        self.knows_anomalies = True
        """Whether the anomalous sources are the user's, rather than built in."""
        self.output_names = None if classes is None else Outputs.read(classes)
        self.outputs: int | None = None
        """How many outputs the network has; None until `fit_outputs` is told."""
        refuse_names([*self.anomaly_names, *filter(None, map(self.noise_of, self.attacks))])
        roles = ({} if train is None else given_parts("data.train", train)) | given_parts("data.normal", normal)
        for name, source in self._anomalies.items():
            roles |= given_parts(f"data.anomalies.{name}", source)
        refuse_two_roles(roles)
        exact_shares(split.fractions)
        self._check_limits()
        self.groups = {name: list(members) for name, members in (groups or {}).items()}
        """Sources by group, whose means are reported."""
        refuse_groups(self.groups, self.anomaly_names)

    def _check_limits(self) -> None:
        """Refuse limits of unknown names, and say which are ignored.

        An experiment file sets limits beside its attacks, and `--data.perturbations.attacks null` takes these away.
        """
        here = {NORMAL, *self.anomaly_names}
        ignored = sorted({*(self.limits.sources or {})} - here)
        if not ignored:
            return
        known = {*here, *KINDS, *preset("pilot")}
        for name in sorted({*ignored} - known):
            hint = did_you_mean(name, sorted(known))
            if hint or self._perturbations.attacks is not None:
                raise Refusal(
                    f"`limits.sources` should name sources, attacks or corruptions. Got `limits.sources` with {[name]}. "
                    f"{hint or f'Choose among {sorted(here)}.'}"
                )
        rank_zero_info(f"Limits of {', '.join(ignored)} are ignored: there are no such attacks or corruptions here.")

    @cached_property
    def train(self) -> LoadedSource:
        """The classifier's training images."""
        if self._train is None:
            raise Refusal(
                "`data.train` should name the classifier's training images. Got `data.train = None`. "
                "Give `data.train`, or give trained weights and use `detect` in place of `fit`."
            )
        named = self.output_names, "data.classes"
        return open_source("train", self._train, self._transform, self.limits, *named, self.skip_unreadable).labelled()

    @cached_property
    def normal(self) -> LoadedSource:
        """The normal source; labels index `output_names`, else the training classes."""
        after_train = self.output_names is None and self.has_train
        named = (Outputs.of(self.train.classes), "train") if after_train else (self.output_names, "data.classes")
        normal = open_source(NORMAL, self._normal, self._transform, self.limits, *named, self.skip_unreadable)
        if self.has_train:
            self.train.refuse_other_shape(normal)
        return normal

    @cached_property
    def clean(self) -> dict[str, LoadedSource]:
        """The sources of images that are read as they are, `normal` first."""
        clean = {NORMAL: self.normal}
        for name, anomaly in self._anomalies.items():
            clean[name] = open_source(name, anomaly, self._transform, self.limits, skip=self.skip_unreadable)
            clean[name].refuse_other_shape(self.normal)
        return clean

    @cached_property
    def fitting(self) -> LoadedSource:
        """The training images that detectors are fitted on, see `read_training`."""
        if self._per_class is None:
            return self.train
        return self.train.labelled().of_each_class(self._per_class, named_seed(self.limits.seed, "train"))

    @property
    def loaded(self) -> dict[str, LoadedSource]:
        """The sources whose images are loaded to be probed: the clean ones, and training images for detectors."""
        return self.clean | ({"train": self.fitting} if self.training_probes else {})

    @cached_property
    def perturbed(self) -> dict[str, PerturbedSource]:
        """What attacks, each with its noise control behind it, corruptions and synthetic outliers make of `normal`."""
        found: dict[str, PerturbedSource] = {}
        # the split of `limits.seed` settles which images a limit takes, so that other splits attack the same ones
        settled = self._manifest({NORMAL: self.normal}, self.limits.seed, {NORMAL: self.normal.groups}).split_of
        splits = np.array([settled[name] for name in self.normal.ids])
        for name, attack in {**self.attacks, **self.corruptions, **self.synthetic}.items():
            rows = self._rows(name, splits)
            if name in (self.limits.sources or {}):
                counts = Counter(self.manifest.split_of[self.normal.ids[row]] for row in rows)
                if counts.keys() < set(splits):
                    raise Refusal(
                        f"`limits.sources.{name}` should leave images in every split. "
                        f"Got `limits.sources.{name} = {len(rows)}`, which gives {dict(counts)}. Raise it."
                    )
            rows = self._affordable(name, rows)
            origins = [self.normal.ids[row] for row in rows]
            rounded, adversarial = self._perturbations.eight_bit, name in self.attacks
            probes = self._synthetic_probes if name in self.synthetic else None
            made = PerturbedSource(name, attack, rows, origins, adversarial, rounded, probes=probes)
            found[name] = made
            if noise := self.noise_of(name):
                found[noise] = dataclasses.replace(made, name=noise, adversarial=False, noise=True)
        return found

    def _rows(self, name: str, splits: NDArray[np.str_]) -> list[int]:
        """The normal images that a perturbation changes if the budget allows it."""
        normal, pool = self.normal, self.rows_of(NORMAL)
        limit = (self.limits.sources or {}).get(name, len(pool))
        if name in self.synthetic:
            known = {one for ids in self._ordered[NORMAL].values() for one in ids[:_WITH_SYNTHETIC]}
            pool = np.array([row for row, one in enumerate(normal.ids) if one in known])
            limit = min(max(_FEWEST_SYNTHETIC, len(pool) // 4), _MOST_SYNTHETIC)
        return share_of(pool, limit, splits, normal.labels, named_seed(self.limits.seed, f"limit/{name}"))

    def _affordable(self, name: str, rows: Sequence[int]) -> list[int]:
        """Those of the rows that are made: for synthetic outliers `train`'s alone, for built-in anomalies no `train`'s."""
        most = self.budget.perturbed
        if name in self.synthetic:
            most = (self.budget.outliers, 0, 0)
        elif not self.knows_anomalies and not self.noise_of(name) and self.keep_of(name) == "all":
            most = (0, *most[1:])
        row_of, taken = {self.normal.ids[row]: row for row in rows}, list[int]()
        for ids, images, made in zip(self._ordered[NORMAL].values(), self.budget.images, most, strict=True):
            taken += [row_of[one] for one in ids[:images] if one in row_of][:made]
        return sorted(taken)

    def take(self, budget: Budget) -> None:
        """Read no more images than a budget allows, in place of those asked for before."""
        self.budget = budget
        for kept in ("manifest", "perturbed"):
            vars(self).pop(kept, None)

    @property
    def left_out(self) -> str:
        """How many normal images the budget takes; nothing where it takes all."""
        taken, there = (one.counts[NORMAL] for one in (self.manifest, self._whole))
        fit, val, test = (f"{taken[split]:,} of {there[split]:,}" for split in SPLITS)
        return "" if taken == there else f"{fit} normal images fit detectors, {val} calibrate them and {test} test them"

    def rows_of(self, source: str) -> Rows:
        """The rows of a loaded source that are read, int64, ascending: those in a split, and all training images."""
        known, ids = self.manifest.split_of, self.loaded[source].ids
        return np.array([row for row, one in enumerate(ids) if source == "train" or one in known], dtype=np.int64)

    @cached_property
    def manifest(self) -> Manifest:
        """The split of every clean source's images that the budget takes."""
        taken = [
            ids[:most]
            for parts in self._ordered.values()
            for ids, most in zip(parts.values(), self.budget.images, strict=True)
        ]
        return self._whole.of({one for ids in taken for one in ids})

    @cached_property
    def _ordered(self) -> dict[str, dict[str, list[str]]]:
        """Ids of each source and split, so that every beginning has the classes in proportion."""
        labels = {name: dict(zip(one.ids, one.labels.tolist(), strict=True)) for name, one in self.clean.items()}
        return {
            name: {
                split: in_proportion(ids, labels[name], named_seed(self.limits.seed, f"budget/{name}"))
                for split, ids in parts.items()
            }
            for name, parts in self._whole.sources.items()
        }

    @cached_property
    def _whole(self) -> Manifest:
        """The split of every clean source's images; copies of an image stay together, and are said."""
        groups = {name: source.groups for name, source in self.clean.items()}
        for name, source in self.clean.items():
            source.say_duplicates(groups[name])
            if name != NORMAL:
                source.say_shared(self.normal, f"in `{NORMAL}`", "No detector can tell these apart")
        return self._manifest(self.clean, self.split.seed, groups)

    def _manifest(self, sources: Mapping[str, LoadedSource], seed: int, groups: Mapping[str, Rows]) -> Manifest:
        listed, fractions, found = self._listed, self.split.fractions, dict[str, dict[str, list[str]]]()
        for name, one in sources.items():
            own = (one.labels, fractions, seed, groups[name])
            if name in listed:
                found[name] = listed[name]
            elif one.parts:
                found[name] = splits_by_part(name, one.ids, one.parts, *own)
            else:
                found[name] = drawn_splits(name, one.ids, *own)
        return Manifest(seed, list(fractions), found)

    @cached_property
    def _listed(self) -> dict[str, dict[str, list[str]]]:
        """The splits of each source that `split.manifest` lists; what it does not list is said."""
        if self.split.manifest is None:
            return {}
        manifest, found = Manifest.read(self.split.manifest), dict[str, dict[str, list[str]]]()
        for name, source in self.clean.items():
            if name not in manifest.sources:
                rank_zero_info(f"{name}: `data.split.manifest` does not list this source, which is split by the seed.")
                continue
            found[name], left_out = manifest.listed(name, source.ids)
            if left_out:
                rank_zero_info(f"{name}: {left_out:,} images that `data.split.manifest` does not list are left out.")
        return found

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

    def try_built_in_anomalies(self) -> None:
        """Where no anomalies are known, try detectors on three attacks and five corruptions in their place.

        ε = 8/255 and its steps are those of today's robustness papers; corruptions are those of CIFAR-10-C.
        """
        if not self.knows_anomalies or self.anomaly_names:
            return
        self.knows_anomalies = False
        attacks = {"fgsm": FGSM(eps=8 / 255), "pgd": PGD(eps=8 / 255, step=2 / 255, steps=10), "semantic": Semantic()}
        kinds, made = ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression"), corruptions_at(3)
        self.attacks = {f"{BUILT_IN}{name}": attack for name, attack in attacks.items()}
        self.corruptions = {f"{BUILT_IN}{kind}": made[kind] for kind in kinds}
        vars(self).pop("perturbed", None)

    def read_training(self, probes: Sequence[str], per_class: int | None) -> None:
        """Read these probes of training images too, at most so many of each class."""
        if probes and not self.has_train:
            raise Refusal(
                "`data.train` should name the classifier's training images for `detection.fit_on = train`. Got none. "
                "Give `data.train`, or use --detection.fit_on normal."
            )
        self.training_probes, self._per_class = frozenset(probes), per_class
        vars(self).pop("fitting", None)

    def make_synthetic(self, outliers: Mapping[str, Perturbation], probes: Sequence[str]) -> None:
        """Make synthetic outliers of normal images, of which `probes` are read, in place of those asked for before."""
        refuse_names([*self.anomaly_names, *outliers])
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

        Returns the sentences of `fit_to_outputs`; none for a number that is known already.
        """
        if self.outputs == outputs:
            return []
        self.outputs, before = outputs, self.num_classes
        notes = fit_to_outputs(self._classified, outputs, self.output_names)
        if self.num_classes != before:
            for kept in _OF_LABELS:
                vars(self).pop(kept, None)
        return notes
