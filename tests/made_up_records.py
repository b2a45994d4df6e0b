"""Made-up records of a normal and an anomalous source, and the same records with something changed."""

from typing import Any

import numpy as np
import pyarrow as pa

from lightning_gradood.records import SPLITS, Records

PROBE = "gradients/all_ones"


def records(counts: dict[str, int] | None = None, gap: float = 3.0, seed: int = 0, width: int = 3) -> Records:
    """Return squared norms whose logarithms are normal, those of the anomalous source `gap` higher, with splits.

    Args:
        counts: how many of each source are in each split.
        gap: distance of the sources in standard deviations; 0 for none.
        seed: of the numbers.
        width: columns of the probe.
    """
    counts = counts or {"train": 60, "val": 60, "test": 30}
    rng, parts, split_of = np.random.default_rng(seed), [], {}
    for source, shift in (("normal", 0.0), ("smoke", gap)):
        splits = [split for split in SPLITS for _ in range(counts[split])]
        ids = [f"{source}/{row:04d}" for row in range(len(splits))]
        split_of |= dict(zip(ids, splits, strict=True))
        values = np.exp(rng.normal(shift - 20, 1, size=(len(ids), width)))
        parts.append(Records.build(ids, source=source, values={PROBE: values}))
    return Records.concatenate(parts).with_splits(split_of)


def changed(
    table: Records, rows: np.ndarray | None = None, probes: dict[str, Any] | None = None, **columns: Any
) -> Records:
    """Return the records with other values in some rows, or in all.

    Args:
        table: n records.
        rows: bool [n].
        probes: name to values of these rows, or one for all.
        columns: the same for `source`, `prediction` and the like.
    """
    rows, arrow = np.ones(len(table), bool) if rows is None else rows, table.table
    for name, new in (probes or {}).items():
        values = table.probe(name).copy()
        values[rows] = new
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        place = arrow.column_names.index(name)
        arrow = arrow.set_column(place, arrow.schema.field(place), lists.cast(arrow.schema.field(place).type))
    for name, new in columns.items():
        column = table.column(name).astype(object)
        column[rows] = new
        place = arrow.column_names.index(name)
        field = arrow.schema.field(place)
        arrow = arrow.set_column(place, field, pa.array(column.tolist(), field.type))
    return Records(arrow)


def exchanged(table: Records, split: str, seed: int = 3) -> Records:
    """Return the records with what was read of the images of one split, of either source, given to others of that split."""
    rows = np.flatnonzero(table.column("split") == split)
    shuffled = np.random.default_rng(seed).permutation(rows)
    mask = table.column("split") == split
    return changed(table, mask, {probe: table.probe(probe)[shuffled] for probe in table.probes})
