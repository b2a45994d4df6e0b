"""The numbers of finished runs, gathered over seeds."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_gradood.benchmark.commands import Call
from lightning_gradood.benchmark.runner import RESULTS
from lightning_gradood.benchmark.settings import Benchmark, Experiment


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Args:
        values: of each seed, shares in [0, 1].
        paper: the paper's number for the same, if it has one.
    """

    values: tuple[float, ...]
    paper: float | None = None

    @property
    def mean(self) -> float:
        """Arithmetic mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, of a sample (n − 1); None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """What all detectors have on one source.

    Args:
        experiment: its name in the benchmark.
        about: its place in the tables.
        source: the anomaly source.
        made: whether it is made of normal images by an attack or corruption.
        metrics: detector to metric of the test split to one value for each seed.
        seconds: detector to seconds to fit and score, for each seed.
        counts: of the first seed, split to `normal` and `anomalous`.
        made_by: what was done to the images, of the first seed; empty if nothing was.
    """

    experiment: str
    about: Experiment
    source: str
    made: bool
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)

    def cell(self, detector: str, metric: str, paper: float | None = None) -> Cell | None:
        """The number of a detector over seeds; None if it has none."""
        values = self.metrics.get(detector, {}).get(metric, [])
        return Cell(tuple(values), paper) if values else None


def rows_of(benchmark: Benchmark, calls: Sequence[Call]) -> list[Row]:
    """Read the results of every call, grouped by experiment and source in order of first appearance.

    Detectors that were trained on one other source alone are left out: the tables are for the paper's protocol.
    """
    rows: dict[tuple[str, str], Row] = {}
    for call in calls:
        document = json.loads((call.folder / RESULTS).read_text())
        perturbations = document["provenance"]["perturbations"]
        sources = {outcome["source"] for outcome in document["outcomes"]}
        for outcome in document["outcomes"]:
            source = outcome["source"]
            if outcome["trained_on"] in sources - {source}:
                continue
            about, made_by = benchmark.experiments[call.experiment], perturbations.get(source, {})
            new = Row(call.experiment, about, source, source in perturbations, {}, {}, outcome["counts"], made_by)
            _add(rows.setdefault((call.experiment, source), new), outcome)
    return list(rows.values())


def _add(row: Row, outcome: dict[str, Any]) -> None:
    metrics = row.metrics.setdefault(outcome["detector"], {})
    for name, value in outcome["metrics"]["test"].items():
        if value is not None:
            metrics.setdefault(name, []).append(float(value))
    row.seconds.setdefault(outcome["detector"], []).append(float(outcome["seconds"]))
