"""Made-up records of a normal and an anomalous source, for the tests of this room."""

import numpy as np

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


def with_values(table: Records, split: str, values: np.ndarray) -> Records:
    """Return the same records with other values of the probe in one split."""
    rows = table.column("split") == split
    changed = table.probe(PROBE).copy()
    changed[rows] = values
    columns = {name: table.table[name].to_pylist() for name in ("id", "source", "split")}
    parts = [
        Records.build([name], source=source, values={PROBE: row[None]})
        for name, source, row in zip(columns["id"], columns["source"], changed, strict=True)
    ]
    return Records.concatenate(parts).with_splits(dict(zip(columns["id"], columns["split"], strict=True)))
