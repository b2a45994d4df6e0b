"""Compare sets of label designs on the records of a run that was probed with all of them: prints a table.

    python -m benchmarks.label_designs runs/pilot --sets all_ones all_ones+predicted+uniform

A set is the names of designs joined by plus signs. For each set the paper's MLP is fitted on every anomaly source over
several splits; each source has its mean AUROC on `test`, and the means over sources stand behind. Choose by `val`.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

from lightning_gradood.data import drawn_splits
from lightning_gradood.detectors import MLP
from lightning_gradood.evaluation import evaluate
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.records import NORMAL, RecordCache, Records, detection_dataset
from lightning_gradood.report import Run
from lightning_gradood.tasks import MLPSettings


class Known(LabelDesign):
    """A design whose norms are in the records: its name is all that is needed of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """As in the records."""
        return self._name

    def logit_gradient(self, logits: object) -> None:  # type: ignore[override]
        """There is no network here."""
        raise NotImplementedError


def main() -> None:
    """Read the records, fit each set on each source and split, print a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run that was probed with all designs")
    parser.add_argument("--sets", nargs="+", required=True, help="names of designs joined by +")
    parser.add_argument("--records", type=Path, help="the run's cache_dir; by default .records beside it")
    parser.add_argument("--splits", type=int, default=3)
    settings = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # Lightning with torch 2.15
    records = read(settings.run, settings.records or settings.run.parent / ".records")
    sources = [source for source in records if source != NORMAL]
    names = ["val", "test", *sources]
    print(f"{'':60}" + "".join(f"{name:>11}" for name in names))
    for designs in settings.sets:
        table = compared(designs.split("+"), records, sources, settings.splits)
        mean = {split: np.mean([table[source, split] for source in sources]) for split in ("val", "test")}
        cells = [mean["val"], mean["test"], *(np.mean(table[source, "test"]) for source in sources)]
        print(f"{designs:60}" + "".join(f"{100 * cell:11.2f}" for cell in cells), flush=True)


def read(run: Path, cache: Path) -> dict[str, Records]:
    """The run's records by source, every gradient probe side by side."""
    keys = Run.read(run).provenance["records"]
    found: dict[str, Records] = {}
    for name, key in keys.items():
        source, probe = name.split("/", 1)
        if probe.startswith("gradients/"):
            part = RecordCache(str(cache)).read(key)
            found[source] = found[source].join(part) if source in found else part
    return found


def compared(
    designs: list[str], records: dict[str, Records], sources: list[str], splits: int
) -> dict[tuple[str, str], list[float]]:
    """AUROC of the MLP by source and by `val` or `test`, a number for each split of the images."""
    table = defaultdict(list)
    normal = records[NORMAL]
    for seed in range(splits):
        drawn = drawn_splits(NORMAL, normal.ids, normal.column("label"), [0.4, 0.4, 0.2], seed)
        split_of = {one: split for split, ids in drawn.items() for one in ids}
        mixed = {name: part.with_splits(split_of) for name, part in records.items()}
        for source in sources:
            detector = MLP([Known(name) for name in designs], MLPSettings())
            outcome = evaluate(detector, detection_dataset(mixed, source), source=source, seed=seed, resamples=1)
            for split in ("val", "test"):
                table[source, split].append(outcome.metrics[split]["auroc"])
    return table


if __name__ == "__main__":
    main()
