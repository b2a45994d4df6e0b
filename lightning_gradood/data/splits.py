"""Stratified, grouped, seeded splits of exact size, the manifest of them, and copies of an image, which stay together.

Sizes follow the largest remainder, for the whole first and then for the classes: 26,032 images at 40/40/20 give
10,413/10,413/5,206 whatever their classes, and every class has within one image of its share in every split.
"""

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lightning_gradood.core import OpenUnitInterval, Refusal, Seed, atomic_write, digest, named_seed
from lightning_gradood.data.loading import LoadedSource, Rows
from lightning_gradood.data.source import FolderSource, Source
from lightning_gradood.records import SPLITS


@dataclass(frozen=True)
class Split:
    """How the images of each source are split.

    Args:
        fractions: The parts of each detection source that fit, select and report a detector: train, val and test.
        seed: Seeds these splits and the validation part.
        validation: The part of the training images that selects the classifier's checkpoint.
    """

    fractions: tuple[float, float, float] = (0.4, 0.4, 0.2)
    seed: Seed = 0
    validation: OpenUnitInterval = 0.1


def split_rows(
    labels: Sequence[int] | NDArray[Any],
    fractions: Sequence[float],
    seed: int,
    groups: Sequence[str] | NDArray[Any] | None = None,
) -> list[Rows]:
    """Split rows at random into parts of exact size, each class and each group in proportion.

    Args:
        labels: The class of each row, [N]; any integers, -1 being a class like any other.
        fractions: The share of each part; positive, with sum 1.
        seed: Seeds the shuffle within the classes.
        groups: The origin of each row, [N]; rows of one origin stay together. Shares are then counted in origins, and
            an origin has the class of its first row. None: every row is its own origin.

    Returns:
        The rows of each part, ascending: int64 arrays that are disjoint and together all rows.

    Example:
        >>> [len(part) for part in split_rows([0, 0, 0, 1, 1], [0.4, 0.4, 0.2], seed=0)]
        [2, 2, 1]
    """
    shares = exact_shares(fractions)
    labels = np.asarray(labels, dtype=np.int64)
    origins = np.arange(len(labels)) if groups is None else np.asarray(groups)
    _, first, origin_of = np.unique(origins, return_index=True, return_inverse=True)
    classes, counts = np.unique(labels[first], return_counts=True)
    part_of = np.empty(len(first), dtype=np.int64)
    shuffle = np.random.default_rng(seed)
    for label, seats in zip(classes, allocate(counts.tolist(), shares), strict=True):
        part_of[shuffle.permutation(np.flatnonzero(labels[first] == label))] = np.repeat(np.arange(len(shares)), seats)
    return [np.flatnonzero(part_of[origin_of] == part) for part in range(len(shares))]


def smallest_count(fractions: Sequence[float]) -> int:
    """Return the fewest images from which on every part gets one."""
    shares = exact_shares(fractions)
    enough = math.ceil(1 / min(shares))  # from here on every part has a whole seat of its own
    too_few = [count for count in range(enough) if min(_largest_remainder(count, shares)) == 0]
    return max(too_few) + 1


def allocate(counts: Sequence[int], shares: Sequence[Fraction]) -> list[list[int]]:
    """Give each of K classes its seats in each of P parts, [K][P], from counts [K] and shares [P] with sum 1.

    Parts have the size of the largest remainder of the whole. Every class first gets the whole seats of its share; the
    rest is given out class by class, those with most seats left first, to the parts that lack most, as Gale and Ryser
    find a matrix with given margins. Row sums are `counts`, entries are within one of `count * share`.
    """
    seats = [[int(count * share) for share in shares] for count in counts]
    totals = _largest_remainder(sum(counts), shares)
    lacking = [total - sum(column) for total, column in zip(totals, zip(*seats, strict=True), strict=True)]
    left = [count - sum(row) for count, row in zip(counts, seats, strict=True)]
    for k in sorted(range(len(counts)), key=lambda k: -left[k]):
        due = [counts[k] * share for share in shares]
        for _ in range(left[k]):
            part = min(
                range(len(shares)),
                key=lambda p: (lacking[p] <= 0, seats[k][p] >= due[p], -lacking[p], seats[k][p] - due[p]),
            )
            seats[k][part] += 1
            lacking[part] -= 1
    return seats


def exact_shares(fractions: Sequence[float]) -> list[Fraction]:
    """The fractions as exact ratios, so that 0.4 of 10,000 is 4,000."""
    finite = all(isinstance(fraction, int | float) and math.isfinite(fraction) for fraction in fractions)
    ratios = [Fraction(fraction).limit_denominator(10**6) for fraction in fractions if finite]
    if not ratios or min(ratios) <= 0 or abs(float(sum(ratios)) - 1) > 1e-5:
        raise Refusal(
            "`split.fractions` should be positive and sum to 1. "
            f"Got `split.fractions = {list(fractions)}`. Write e.g. [0.4, 0.4, 0.2]."
        )
    return [ratio / sum(ratios) for ratio in ratios]


def _largest_remainder(count: int, shares: Sequence[Fraction]) -> list[int]:
    seats = [int(count * share) for share in shares]
    order = sorted(range(len(shares)), key=lambda part: seats[part] - count * shares[part])  # stable: ties to the first
    for part in order[: count - sum(seats)]:
        seats[part] += 1
    return seats


@dataclass(frozen=True)
class Manifest:
    """The split of every image of every detection source.

    Args:
        seed: The seed the splits were made with.
        fractions: The shares of train, val and test.
        sources: For each source, the ids in each split, in the source's order: `sources["normal"]["val"]`.
    """

    seed: int
    fractions: list[float]
    sources: dict[str, dict[str, list[str]]]

    @cached_property
    def split_of(self) -> dict[str, str]:
        """The split of each id: "train", "val" or "test"."""
        return {name: split for parts in self.sources.values() for split, names in parts.items() for name in names}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The number of images of each source in each split."""
        return {source: {split: len(ids) for split, ids in parts.items()} for source, parts in self.sources.items()}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest as JSON, whole or not at all."""
        content = {"seed": self.seed, "fractions": self.fractions, "sources": self.sources}
        with atomic_write(Path(path)) as file:
            file.write(f"{json.dumps(content, indent=1)}\n".encode())


def make_manifest(
    ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[int] | NDArray[Any]],
    fractions: Sequence[float],
    seed: int,
    groups: Mapping[str, NDArray[Any]] | None = None,
) -> Manifest:
    """Split every source into train, val and test, each on its own, so that no source's split depends on the others.

    Args:
        ids: The ids of each source's images, in order.
        labels: Their classes, for stratification.
        fractions: The shares of train, val and test; positive, with sum 1.
        seed: Combined with each source's name.
        groups: For each source, which images are the same one and stay together; see `split_rows`.

    Raises:
        Refusal: There are not three such fractions, or a source has too few images to fill every split.
    """
    if len(fractions) != len(SPLITS):
        raise Refusal(
            "`split.fractions` should be three: train, val and test. "
            f"Got `split.fractions = {list(fractions)}`. Write e.g. [0.4, 0.4, 0.2]."
        )
    least = smallest_count(fractions)
    sources = {}
    for source, names in ids.items():
        same = None if groups is None else groups[source]
        different = len(names) if same is None else len(np.unique(same))
        if different < least:
            copies = f", of which {different} differ" if different < len(names) else ""
            raise Refusal(
                f"`{source}` should have at least {least} images, to fill every split of {list(fractions)}. "
                f"Got `{source}` with {len(names)}{copies}. Add images, or raise `limits.images`."
            )
        parts = split_rows(labels[source], fractions, named_seed(seed, source), same)
        sources[source] = {split: [names[row] for row in rows] for split, rows in zip(SPLITS, parts, strict=True)}
    return Manifest(seed, list(fractions), sources)


def groups_of(source: LoadedSource) -> NDArray[np.int64]:
    """Give each image the row of the first one that is the same, int64 [N]."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(print_, row) for row, print_ in enumerate(source.fingerprints)], dtype=np.int64)


def say_duplicates(source: LoadedSource, groups: NDArray[np.int64]) -> None:
    """Print one line where images are in a source more than once."""
    copies = Counter(groups.tolist())
    several = [row for row, number in copies.items() if number > 1]
    if several:
        example = np.flatnonzero(groups == several[0])[:2]
        rank_zero_info(
            f"{source.name}: {sum(copies[row] for row in several):,} of {len(groups):,} images are there more than once "
            f"({len(several):,} different ones), e.g. `{source.ids[example[0]]}` and `{source.ids[example[1]]}`. "
            "The same images are in the same split."
        )


def say_shared(source: LoadedSource, other: LoadedSource, of_other: str, consequence: str) -> None:
    """Print one line where images of a source are those of another one too."""
    alike = source.in_memory == other.in_memory  # else one would be compared by pixels and the other by files
    mine, theirs = (one.fingerprints if alike else one.original_fingerprints for one in (source, other))
    known = {print_: row for row, print_ in reversed(list(enumerate(theirs)))}
    shared = [(source.ids[row], other.ids[known[print_]]) for row, print_ in enumerate(mine) if print_ in known]
    if shared:
        rank_zero_info(
            f"{source.name}: {len(shared):,} of {len(source):,} images are also {of_other}, e.g. `{shared[0][0]}` is "
            f"`{shared[0][1]}`. {consequence}: remove them from one of the two."
        )


def refuse_two_roles(roles: Mapping[str, Source | str | None]) -> None:
    """Refuse one folder or data set, with the same settings, in two roles, and a folder inside that of another role.

    Args:
        roles: The sources, or paths of folders, by their flags.
    """
    given = {flag: FolderSource(one) if isinstance(one, str) else one for flag, one in roles.items() if one is not None}
    for (flag, source), (other_flag, other) in itertools.combinations(given.items(), 2):
        different = f"`{flag}` and `{other_flag}` should be different images."
        if _identity(source) == _identity(other):
            raise Refusal(f"{different} Got both as {_shown(source)}. {_ADVICE[other_flag == 'data.normal']}")
        if isinstance(source, FolderSource) and isinstance(other, FolderSource):
            outer, inner = sorted((source, other), key=lambda one: len(_identity(one)))
            if os.path.commonpath([_identity(outer), _identity(inner)]) == _identity(outer):
                raise Refusal(
                    f"{different} Got {_shown(inner)} inside {_shown(outer)}, which is read with all folders in it. Name a "
                    "folder beside it."
                )


_ADVICE = {
    True: "Name images that the classifier has not seen as `data.normal`, or leave `data.train` out and use `detect`.",
    False: "Name another folder for one of them, or remove one.",
}


def _identity(source: Source) -> str:
    """Text that is the same for sources with the same images."""
    if isinstance(source, FolderSource):
        return os.path.realpath(os.path.expanduser(source.root))
    try:
        return digest(source)
    except Refusal:  # a function among its settings
        return repr(source)


def _shown(source: Source) -> str:
    if isinstance(source, FolderSource):
        return f"the folder `{source.root}`"
    return f"`{type(source).__name__}` with the same settings"
