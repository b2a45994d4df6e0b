"""The numbers of a report as files: nested JSON and flat CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradood.core import atomic_write
from lightning_gradood.evaluation import Outcome
from lightning_gradood.report.bundle import MEAN, DetectionReport, by_detector
from lightning_gradood.report.tables import mean_numbers, outcome_numbers

_COLUMNS = ("experiment", "source", "detector", "split", "metric", "value")


def write_results(report: DetectionReport, folder: Path) -> list[Path]:
    """Write `results.json` and `results.csv`, each atomically.

    Args:
        report: what to write.
        folder: the run's folder.

    Returns:
        The two paths.
    """
    document = json.dumps(results_document(report), indent=2, allow_nan=False) + "\n"
    contents = {"results.json": document, "results.csv": _csv_text(results_rows(report))}
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in contents]


def results_rows(report: DetectionReport) -> list[dict[str, Any]]:
    """Flatten the report to one row per source, detector, split and metric.

    Args:
        report: what to flatten.

    Returns:
        Rows with the keys `experiment`, `source`, `detector`, `split`, `metric`, `value`; source `mean` is the mean over
        sources, detector `mlp@fgsm` the one that was trained on the source `fgsm` rather than on that of the row. Rates are
        in [0, 1], counts are integers, a number that is not finite is None.
    """
    numbered = [(outcome.source, outcome.label, outcome_numbers(outcome)) for outcome in report.outcomes]
    numbered += [(MEAN, detector, mean_numbers(group)) for detector, group in by_detector(report.outcomes).items()]
    return [
        dict(
            zip(_COLUMNS, (report.experiment, source, detector, split, metric, plain(value)), strict=True),
        )
        for source, detector, numbers in numbered
        for split, metrics in numbers.items()
        for metric, value in metrics.items()
    ]


def results_document(report: DetectionReport) -> dict[str, Any]:
    """Nest the report as it stands in `results.json`.

    Args:
        report: what to nest.

    Returns:
        `experiment`, `provenance`, `outcomes` (a list) and `mean` (detector to split to metric), JSON types only.
    """
    means = {detector: mean_numbers(group) for detector, group in by_detector(report.outcomes).items()}
    document = {
        "experiment": report.experiment,
        "provenance": report.provenance,
        "outcomes": [_outcome_document(outcome) for outcome in report.outcomes],
        MEAN: means,
    }
    return {key: plain(value) for key, value in document.items()}


def plain(value: Any) -> Any:
    """Turn a value into JSON types: numbers that are not finite become None, what JSON lacks becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    low, high = outcome.auroc_interval
    return {
        "source": outcome.source,
        "detector": outcome.detector,
        "trained_on": outcome.trained_on,
        "counts": outcome.counts,
        "metrics": outcome.metrics,
        "auroc_interval": {"low": low, "high": high},
        "threshold": outcome.threshold,
        "seconds": outcome.seconds,
        "curves": outcome.curves,
    }


def _csv_text(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
