"""Stratified, grouped, seeded splits of exact size, and the manifest of them.

Sizes follow the largest remainder, for the whole first and then for the classes: 26,032 images at 40/40/20 give
10,413/10,413/5,206 whatever their classes, and every class has within one image of its share in every split. Classes too
small to have an image in every split are dealt out one after the other, so that each of their images has the same chance.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gradood.core import OpenUnitInterval, Refusal, Seed, Unparsable, atomic_write, named_seed, read_json
from lightning_gradood.records import SPLITS

Rows = NDArray[np.int64]

_BYTES = 2**31  # of a manifest


@dataclass(frozen=True)
class Split:
    """How the images of each source are split.

    Args:
        fractions: The parts of each detection source that fit, select and report a detector: train, val and test.
        seed: Seeds these splits and the validation part.
        validation: The part of the training images that selects the classifier's checkpoint.
        manifest: A `splits.json` of an earlier run, whose splits are taken; images that it does not list are left out.
    """

    fractions: tuple[float, float, float] = (0.4, 0.4, 0.2)
    seed: Seed = 0
    validation: OpenUnitInterval = 0.1
    manifest: str | None = None


@dataclass(frozen=True)
class Budget:
    """The most images that `train`, `val` and `test` have, chosen at random with classes in proportion; None for all.

    A smaller budget's images are among those of a larger one.

    Args:
        images: Of each detection source.
        perturbed: Made of normal ones by each attack and corruption.
        outliers: Normal `train` images of which a synthetic outlier of each kind is made.
    """

    images: tuple[int | None, int | None, int | None] = (None, None, None)
    perturbed: tuple[int | None, int | None, int | None] = (None, None, None)
    outliers: int | None = None


def split_rows(
    labels: Sequence[int] | NDArray[Any], fractions: Sequence[float], seed: int, groups: NDArray[Any] | None = None
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

    Examples:
        >>> [len(part) for part in split_rows([0, 0, 0, 1, 1], [0.4, 0.4, 0.2], seed=0)]
        [2, 2, 1]
    """
    shares = exact_shares(fractions)
    labels = np.asarray(labels, dtype=np.int64)
    origins = np.arange(len(labels)) if groups is None else groups
    _, first, origin_of = np.unique(origins, return_index=True, return_inverse=True)
    classes, counts = np.unique(labels[first], return_counts=True)
    part_of = np.empty(len(first), dtype=np.int64)
    shuffle, number, large = np.random.default_rng(seed), np.arange(len(shares)), counts * float(min(shares)) >= 1
    *seats, rest = allocate([*counts[large].tolist(), int(counts[~large].sum())], shares)
    for label, own in zip(classes[large], seats, strict=True):
        part_of[shuffle.permutation(np.flatnonzero(labels[first] == label))] = np.repeat(number, own)
    turns = np.concatenate([(np.arange(own) + 0.5) / max(own, 1) for own in rest])  # each part's evenly spread
    dealt = np.repeat(number, rest)[np.argsort(turns, kind="stable")]
    place = shuffle.permutation(len(classes))[np.searchsorted(classes, labels[first])]  # of the class
    small = np.flatnonzero(~large[np.searchsorted(classes, labels[first])])
    small = small[np.lexsort((shuffle.permutation(len(small)), place[small]))]
    part_of[small] = np.roll(dealt, shuffle.integers(len(small) + 1))
    return [np.flatnonzero(part_of[origin_of] == part) for part in range(len(shares))]


def in_proportion(ids: Sequence[str], label_of: Mapping[str, int], seed: int) -> list[str]:
    """Order ids at random so that every beginning has each class in proportion."""
    random = np.random.default_rng(seed)
    rows = random.permutation(len(ids))
    _, class_of, counts = np.unique([label_of[ids[row]] for row in rows], return_inverse=True, return_counts=True)
    place = np.empty(len(rows))
    place[np.argsort(class_of, kind="stable")] = np.concatenate([[], *map(np.arange, counts)])
    due = (place + random.random(len(counts))[class_of]) / counts[class_of]
    return [ids[row] for row in rows[np.argsort(due, kind="stable")]]


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
    if not fractions or not min(fractions) > 1e-6 or not abs(sum(fractions) - 1) <= 1e-5:  # false for NaN
        raise Refusal(
            "`split.fractions` should be positive and sum to 1. "
            f"Got `split.fractions = {list(fractions)}`. Write e.g. [0.4, 0.4, 0.2]."
        )
    ratios = [Fraction(fraction).limit_denominator(10**6) for fraction in fractions]
    return [ratio / sum(ratios) for ratio in ratios]


def _largest_remainder(count: int, shares: Sequence[Fraction]) -> list[int]:
    seats = [int(count * share) for share in shares]
    order = sorted(range(len(shares)), key=lambda part: seats[part] - count * shares[part])  # stable: ties to the first
    for part in order[: count - sum(seats)]:
        seats[part] += 1
    return seats


@dataclass(frozen=True)
class Manifest:
    """The split of every image of every detection source: ids by source and split, in the source's order."""

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

    def of(self, ids: Collection[str]) -> "Manifest":
        """The manifest of these images alone."""
        kept = {
            source: {split: [one for one in names if one in ids] for split, names in parts.items()}
            for source, parts in self.sources.items()
        }
        return Manifest(self.seed, self.fractions, kept)

    @classmethod
    def read(cls, path: str) -> "Manifest":
        """Read what `write` wrote, such as a run's `splits.json`."""
        try:
            found = cls(**read_json(Path(path).expanduser(), _BYTES))
            lists = [ids for parts in found.sources.values() for split, ids in parts.items() if split in SPLITS]
            if len(lists) < sum(map(len, found.sources.values())) or len(found.split_of) < sum(map(len, lists)):
                raise Unparsable("splits other than train, val and test, or an id more than once")
        except (OSError, Unparsable, TypeError, AttributeError) as error:
            got = getattr(error, "strerror", None) or error
            raise Refusal(
                f"`data.split.manifest` should be a `splits.json` that `detect` has written. Got `data.split.manifest = "
                f"{path}`: {got} (looked at {Path(path).absolute()}). Correct the path, or leave it out."
            ) from error
        return found

    def listed(self, source: str, ids: Sequence[str]) -> tuple[dict[str, list[str]], int]:
        """Ids of each split of a source, in its order, and how many of its images are not listed; missing ones are refused."""
        known = {*ids}
        if missing := [one for parts in self.sources[source].values() for one in parts if one not in known]:
            raise Refusal(
                f"`data.split.manifest` should list images that are there. Got {len(missing):,} that `{source}` does not have, "
                f"e.g. {', '.join(missing[:3])}. Put them back, or take away limits that the run which wrote it did not have."
            )
        found = {split: [one for one in ids if self.split_of.get(one) == split] for split in SPLITS}
        return found, len(ids) - sum(map(len, found.values()))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest as JSON, whole or not at all."""
        with atomic_write(Path(path)) as file:
            file.write(f"{json.dumps(asdict(self), indent=1)}\n".encode())


def drawn_splits(
    source: str,
    ids: Sequence[str],
    labels: Sequence[int] | NDArray[Any],
    fractions: Sequence[float],
    seed: int,
    groups: NDArray[Any] | None = None,
) -> dict[str, list[str]]:
    """Split a source's images into train, val and test, independently of other sources.

    Args:
        source: Its name, with which the seed is combined.
        ids: Of its images, in order.
        labels: Their classes, for stratification.
        fractions: The shares of train, val and test; positive, with sum 1.
        groups: Which images are the same one and stay together; see `split_rows`.

    Raises:
        Refusal: There are no such fractions, or the source has too few images to fill every split.
    """
    parts = split_rows(labels, fractions, named_seed(seed, source), groups)
    if min(map(len, parts)) == 0:
        different = len(ids if groups is None else np.unique(groups))
        raise Refusal(
            f"`{source}` should have enough images to fill every split of {list(fractions)}. "
            f"Got `{source}` with {len(ids)}, {different} of them different. Add images, or raise `limits.images`."
        )
    return {split: [ids[row] for row in rows] for split, rows in zip(SPLITS, parts, strict=True)}
