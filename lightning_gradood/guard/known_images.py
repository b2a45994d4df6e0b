"""What a guard's probes have read of normal images, which it keeps so that it can be refitted without the run that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lightning_gradood.core import Component
from lightning_gradood.records import Records

_MOST = 1000  # images of a part,
_BYTES = 8 << 20  # or as many as have so much read of them


@dataclass(frozen=True, eq=False)
class KnownImages(Component):
    """Images as a guard's probes have read them.

    Args:
        names: of n images: the absolute path of a file, or an id.
        marks: `normal`, or the name of an anomaly.
        parts: `train` for images to fit a detector on, `val` for those that the guard is calibrated on; after a refit
            `marked` for those that a person has marked, `not flagged` for others beside them.
        predictions: of the classifier, int64 [n].
        values: probe to what it reads, [n, width].
    """

    names: list[str]
    marks: list[str]
    parts: list[str]
    predictions: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, records: Records, probes: Sequence[str], paths: Mapping[str, str]) -> Self:
        """Take records, whose sources are marks and splits are parts; `paths` has files by id, where there are some."""
        marks, parts, predictions = (records.column(name) for name in ("source", "split", "prediction"))
        values = {name: records.stored(name).copy() for name in probes}  # Arrow's are read-only
        names = [paths.get(one) or one for one in records.ids]
        return cls(names, marks.tolist(), parts.tolist(), predictions.copy(), values)

    def __len__(self) -> int:
        return len(self.names)

    def at(self, rows: np.ndarray) -> Self:
        """Some of them, int or bool [n]."""
        rows = np.arange(len(self))[rows]
        names, marks, parts = ([one[row] for row in rows] for one in (self.names, self.marks, self.parts))
        values = {name: own[rows] for name, own in self.values.items()}
        return type(self)(names, marks, parts, self.predictions[rows], values)

    def __add__(self, other: Self) -> Self:
        values = {name: np.concatenate([own, other.values[name]]) for name, own in self.values.items()}
        lists = (self.names + other.names, self.marks + other.marks, self.parts + other.parts)
        return type(self)(*lists, np.concatenate([self.predictions, other.predictions]), values)

    @property
    def records(self) -> Records:
        """Their records in the same order, with marks as sources and parts as splits; ids are row numbers."""
        ids = [str(row) for row in range(len(self))]
        found = Records.build(ids, source=self.marks, values=self.values, prediction=self.predictions.tolist())
        return found.with_splits(dict(zip(ids, self.parts, strict=True)))


def drawn_images(records: Records, probes: Sequence[str], seed: int = 0) -> Records:
    """At most 1,000 records of each split, or as many as have 8 MB read of them, drawn at random and in their order."""
    size = sum(records.stored(name)[:1].nbytes for name in probes) or 1
    most, splits = max(1, min(_MOST, _BYTES // size)), records.column("split")
    order = np.random.default_rng(seed).permutation(len(records))
    rows = np.concatenate([order[splits[order] == one][:most] for one in np.unique(splits)])
    return records.at(np.sort(rows).tolist())
