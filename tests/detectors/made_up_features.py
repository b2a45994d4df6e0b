"""Made-up records with what the field's other methods read, for the tests of this room."""

import numpy as np

from lightning_gradood.records import NORMAL, SPLITS, SYNTHETIC, Records

LAYERS = {"relu": 3, "layer1": 5}
COUNTS = {"train": 60, "val": 50, "test": 40}


def feature_records(gap: float = 1.0, seed: int = 0, counts: dict[str, int] | None = None, width: int = 6) -> Records:
    """Return normal records and anomalous ones, whose values are shifted by `gap` and mostly spread wider.

    Args:
        gap: 0 for none.
        seed: of the numbers.
        counts: how many of each source are in each split.
        width: of the penultimate features.
    """
    rng = np.random.default_rng(seed)
    counts = counts or COUNTS
    n = sum(counts.values())
    splits = [split for split in SPLITS for _ in range(counts[split])]
    parts, split_of = [], {}
    for source, by in ((NORMAL, 0.0), ("smoke", gap)):
        ids = [f"{source}/{row:05d}" for row in range(len(splits))]
        split_of |= dict(zip(ids, splits, strict=True))
        values = {
            "logits": rng.normal(by, 1 + by, size=(n, 4)) * 3,
            "features/layers": rng.normal(by, 1 + by, size=(n, sum(LAYERS.values()))),
            "features/layers+spread": rng.normal(by, 1 + by, size=(n, 2 * sum(LAYERS.values()))),
            "features/penultimate": rng.normal(2 + by * (-1.0) ** np.arange(width), 1, size=(n, width)),
            "gradnorm": np.exp(-rng.normal(by, 1 + by, size=(n, 1))),
            "image_statistics": np.abs(rng.normal(by, 1 + by, size=(n, 4))) / 10 + [0.5, 0, 0, 0],
        }
        values["views/mirror+blur"] = np.random.default_rng(seed + 1).normal(0, 1 + by, size=(n, 10))
        parts.append(Records.build(ids, source=source, values=values, names={"features/layers": layer_channels()}))
    return Records.concatenate(parts).with_splits(split_of)


def with_outliers(table: Records, *kinds: str) -> Records:
    """Add a synthetic outlier of each kind to each normal `train` image; it looks like the anomalous records of `train`.

    Args:
        table: of `feature_records`.
        kinds: names of synthetic outliers.
    """
    train = table.where(split="train")
    normal, anomalous = (Records(train.table.filter(train.anomalous == side)) for side in (0, 1))
    parts = [
        Records.build(
            [f"{SYNTHETIC}{kind}/{one}" for one in normal.ids],
            source=NORMAL,
            values={probe: anomalous.probe(probe) for probe in table.probes},
            names={probe: table.names(probe) for probe in table.probes},
            origin_id=normal.ids,
            attack=[f"{SYNTHETIC}{kind}"] * len(normal),
            linf=[0.1] * len(normal),
        )
        for kind in kinds
    ]
    split_of = dict(zip(table.column("origin_id"), table.column("split"), strict=True))
    return Records.concatenate([table, *(part.with_splits(split_of) for part in parts)])


def layer_channels() -> list[str]:
    """Names of the columns of the feature layers."""
    return [f"{layer}.{channel}" for layer, width in LAYERS.items() for channel in range(width)]


def rebuilt(table: Records, values: dict[str, np.ndarray] | None = None, sources: np.ndarray | None = None) -> Records:
    """Return the same records with other values of some probes or with other sources."""
    values = {probe: table.probe(probe) for probe in table.probes} | (values or {})
    ids, splits = table.column("id"), table.column("split")
    sources = table.column("source") if sources is None else sources
    parts = []
    for source in np.unique(sources.astype(str)):
        rows = sources == source
        own = {probe: array[rows] for probe, array in values.items()}
        origins = table.column("origin_id")[rows].tolist()
        names = {probe: table.names(probe) for probe in table.probes}
        parts.append(Records.build(ids[rows].tolist(), source=source, values=own, names=names, origin_id=origins))
    split_of = dict(zip(table.column("origin_id"), splits, strict=True))
    return Records.concatenate(parts).with_splits(split_of).by_id()
