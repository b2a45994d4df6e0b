"""Made-up records of a normal and an anomalous source, the same with something changed, and a detector that is watched."""

import numpy as np
import pyarrow as pa

from lightning_gradood.detectors import Detector, Fitted
from lightning_gradood.gradients import AllOnes
from lightning_gradood.probes import GradientProbe
from lightning_gradood.records import NORMAL, SPLITS, Records

PROBE = "gradients/all_ones"


def built(values, counts=None, names=None):
    """Return normal and anomalous records, `counts` of each in each split, `values(number, anomalous)` giving theirs."""
    counts, parts, split_of = counts or {"train": 60, "val": 60, "test": 30}, [], {}
    splits = [split for split in SPLITS for _ in range(counts[split])]
    for source in (NORMAL, "smoke"):
        ids = [f"{source}/{row:05d}" for row in range(len(splits))]
        split_of |= dict(zip(ids, splits, strict=True))
        parts.append(Records.build(ids, source=source, values=values(len(ids), source == "smoke"), names=names))
    return Records.concatenate(parts).with_splits(split_of)


def records(counts=None, gap=3.0, width=3):
    """Return squared norms whose logarithms are normal, those of the anomalous source `gap` deviations higher."""
    rng = np.random.default_rng(0)
    return built(lambda n, anomalous: {PROBE: np.exp(rng.normal(gap * anomalous - 20, 1, size=(n, width)))}, counts)


def changed(table, rows=None, probes=None, **columns):
    """Return n records with other values in some rows, bool [n], or in all, of probes by their names and of columns."""
    rows, arrow = np.ones(len(table), bool) if rows is None else rows, table.table
    for name, new in ((probes or {}) | columns).items():
        values = table.probe(name).copy() if name in table.probes else table.column(name).astype(object)
        values[rows] = new
        place = arrow.column_names.index(name)
        field = arrow.schema.field(place)
        arrow = arrow.set_column(place, field, pa.array(values.tolist(), field.type))
    return Records(arrow)


def exchanged(table, split):
    """Return the records with what was read of the images of one split, of either source, given to others of that split."""
    rows = table.column("split") == split
    shuffled = np.random.default_rng(3).permutation(np.flatnonzero(rows))
    return changed(table, rows, {probe: table.probe(probe)[shuffled] for probe in table.probes})


class Spy(Detector, Fitted):
    """Score by the first norm, which needs no fit; remember the seed and the records that it is shown."""

    probes = (GradientProbe(AllOnes()),)
    needed_outliers, curves = (), ({"epoch": 0, "val/loss": 1.0},)  # no properties here

    def __init__(self, needs_anomalies=True, scores_are_logits=False, outliers=()):
        self.needs_anomalies, self.scores_are_logits, self.needed_outliers = (
            needs_anomalies,
            scores_are_logits,
            outliers,
        )
        self.fits, self.scored, self.after, self.seed = [], [], [], None  # `after` which fit each was scored

    @property
    def name(self):
        return "spy" if self.needs_anomalies else "free"

    def fit(self, records, seed):
        self.seed = seed
        self.fits.append(records)
        return self

    def score(self, records):
        self.scored.append(records)
        self.after.append(len(self.fits))
        return np.log(records.probe(PROBE)[:, 0]) + 18.5
