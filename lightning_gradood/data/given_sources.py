"""How detection sources are given: one source each, or one for each part, whose splits are named so; each in one role."""

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, did_you_mean, digest, named_seed
from lightning_gradood.data.source import FolderSource, GivenSource, Listing, Source, as_source, class_order
from lightning_gradood.data.splits import split_rows
from lightning_gradood.records import NORMAL, SPLITS

Parts = TypedDict(
    "Parts", {"fit": GivenSource, "val": GivenSource, "test": GivenSource, "fit+val": GivenSource}, total=False
)
Given = Parts | GivenSource  # in this order: else parts are taken for the arguments of a data set
"""How a detection source is given: a source, a data set, a folder's path, or one of these for each part; see `PARTS`."""

_LONGEST = 100  # letters of a source's name, which becomes a folder's and a file's
# in results "mean" stands for that over sources, "others" and "validation" for what a detector was trained on
_TAKEN = ("", NORMAL, "train", "mean", "others", "validation", ".", "..")

PARTS = {"fit": "train", "val": "val", "test": "test", "fit+val": ""}
"""Parts that may be named, and the split that each is; the images of `fit+val` are split between the two."""


def given_parts(flag: str, given: Given) -> dict[str, Source]:
    """The sources of a detection source by the flag of each, after its parts are checked."""
    if not isinstance(given, Mapping):
        return {flag: as_source(given)}
    if not given or not given.keys() <= PARTS.keys():
        raise Refusal(
            f"`{flag}` should be a source, or one for each of some parts: {', '.join(PARTS)}. Got {[*given]}. "
            "Write e.g. {val: SOURCE, test: SOURCE}."
        )
    return {f"{flag}.{part}": as_source(cast(GivenSource, source)) for part, source in given.items()}


@dataclass(frozen=True)
class PartsListing(Listing):
    """The images of several sources one after the other; keys are `<part>/<key>`."""

    parts: list[tuple[str, Listing]]
    starts: NDArray[np.int64]  # row at which each begins

    @classmethod
    def of(cls, name: str, parts: Mapping[str, Listing]) -> "PartsListing":
        """Join listings by part; classes are matched by name."""
        lists = [one.classes for one in parts.values()]
        if any(lists) and not all(lists):
            raise Refusal(
                f"`{name}` should have names of classes in all of its parts, or in none. Got names in "
                f"{[part for part, one in parts.items() if one.classes]} alone. Give all parts as the same kind of source."
            )
        classes = (
            lists[0] if all(one == lists[0] for one in lists) else class_order({name for one in lists for name in one})
        )
        keys, labels = list[str](), list[int]()
        for part, one in parts.items():
            places = [classes.index(known) for known in one.classes]
            keys += [f"{part}/{key}" for key in one.keys]
            labels += [places[label] if 0 <= label < len(places) else label for label in one.labels]
        sizes = [len(one.keys) for one in parts.values()]
        return cls(keys, labels, classes, list(parts.items()), np.cumsum([0, *sizes[:-1]]))

    def _at(self, row: int) -> tuple[str, Listing, int]:
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        return *self.parts[place], row - int(self.starts[place])

    @override
    def part(self, row: int) -> str:
        return self._at(row)[0]

    @override
    def read(self, row: int) -> Any:
        _, listing, own = self._at(row)
        return listing.read(own)

    @override
    def path(self, row: int) -> str:
        _, listing, own = self._at(row)
        return listing.path(own)

    @override
    def fingerprint(self, row: int) -> bytes:
        _, listing, own = self._at(row)
        return listing.fingerprint(own)


def splits_by_part(
    source: str,
    ids: Sequence[str],
    parts: Sequence[str],
    labels: NDArray[np.int64],
    fractions: Sequence[float],
    seed: int,
    groups: NDArray[np.int64],
) -> dict[str, list[str]]:
    """Ids of each split of a source, some of which may be empty, from the part of each image; as `drawn_splits`."""
    split_of = np.array([PARTS[part] for part in parts], dtype="<U5")
    both = np.flatnonzero(split_of == "")
    shares = [share / sum(fractions[:2]) for share in fractions[:2]]
    if len(both):
        train, val = split_rows(labels[both], shares, named_seed(seed, source), groups[both])
        split_of[both[train]], split_of[both[val]] = "train", "val"
    return {split: [ids[row] for row in np.flatnonzero(split_of == split).tolist()] for split in SPLITS}


def refuse_two_roles(roles: Mapping[str, Source]) -> None:
    """Refuse one folder or data set, with the same settings, in two roles, and a folder inside that of another role."""
    for (flag, source), (other_flag, other) in itertools.combinations(roles.items(), 2):
        one, two = _place(source), _place(other)
        nested = (
            isinstance(one, Path) and isinstance(two, Path) and (one.is_relative_to(two) or two.is_relative_to(one))
        )
        if one == two or nested:
            raise Refusal(
                f"`{flag}` and `{other_flag}` should be different images. Got {source} and {other}, "
                f"{'the same' if one == two else 'one inside the other, which is read with all folders in it'}. Name another, "
                "leave one out, or, where the classifier is trained already, leave out `data.train` and use `detect`."
            )


def _place(source: Source) -> Path | str:
    """Equal for sources with the same images."""
    if isinstance(source, FolderSource):
        return Path(os.path.realpath(os.path.expanduser(source.root)))
    try:
        return digest(source)
    except Refusal:  # a function among its settings
        return repr(source)


def refuse_names(names: Sequence[str]) -> None:
    """Refuse names of anomalous sources that would make ids or files ambiguous."""
    for name, number in Counter(names).items():
        if name in _TAKEN or "/" in name or not name.isprintable() or len(name) > _LONGEST:
            raise Refusal(
                f"`anomalies` should have names without a slash, of at most {_LONGEST} letters, other than "
                f"{', '.join(f'`{taken}`' for taken in _TAKEN[1:])}. Got `anomalies` with the name "
                f"`{name[:_LONGEST].encode('unicode_escape').decode()}`. Rename that source."
            )
        if number > 1:
            raise Refusal(
                "Anomalies, attacks, corruptions and synthetic outliers should have different names. "
                f"Got `{name}` more than once. Rename one of them."
            )


def refuse_groups(groups: Mapping[str, Sequence[str]], sources: Sequence[str]) -> None:
    """Refuse groups of sources that there are not, and names of groups that are sources'."""
    for group, members in groups.items():
        if unknown := [name for name in members if name not in sources]:
            raise Refusal(
                f"`data.groups.{group}` should list anomalous sources. Got {unknown[0]!r}; there are {[*sources]}. "
                f"{did_you_mean(unknown[0], sources, 'Add it to `data.anomalies`, or leave it out.')}"
            )
        if not members or group in sources or group in _TAKEN or "/" in group:
            raise Refusal(
                f"`data.groups` should have names that no source has, with at least one source each. Got {group!r}: "
                f"{[*members]}. Rename or remove it."
            )
