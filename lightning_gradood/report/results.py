"""The numbers of a report as files: nested JSON, one row per number, one row per image and detector."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradood.core import atomic_write
from lightning_gradood.evaluation import FLAGGED, Failure, Outcome
from lightning_gradood.metrics import binomial_interval
from lightning_gradood.records import write_columns
from lightning_gradood.report.bundle import MEAN, DetectionReport, ImageFacts, by_detector
from lightning_gradood.report.tables import FAILED, mean_numbers, outcome_numbers

_UNKNOWN = ImageFacts("", "", "")
# Fields of an outcome in `results.json`.
_WRITTEN = ("source", "detector", "trained_on", "counts", "metrics", "auroc_interval", "threshold", "seconds", "curves")
_COLUMNS = ("source", "trained_on", "detector", "split", "metric", "value", "low", "high")


def write_results(report: DetectionReport, folder: Path) -> None:
    """Write `results.json`, `results.csv`, `results.parquet` (`results_table`) and `scores.parquet` (`scores_table`).

    Each file appears whole or not at all.
    """
    table = results_table(report.outcomes, report.failures)
    document = json.dumps(results_document(report), indent=2, allow_nan=False) + "\n"
    for name, text in {
        "results.json": document,
        "results.csv": csv_text(table, zip(*table.values(), strict=True)),
    }.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    write_columns(folder / "results.parquet", table)
    write_columns(folder / "scores.parquet", scores_table(report.outcomes, report.facts))


def results_table(outcomes: Sequence[Outcome], failures: Sequence[Failure] = ()) -> dict[str, list[Any]]:
    """List every number of every outcome, one row each, as columns; a failure is a row `failed` without a value.

    Rates are in [0, 1]; `low` and `high` are a 95 % interval (bootstrap for test AUROC, binomial for false-positive
    rates); `threshold` is under `val`, `seconds` (to fit and score) under `test`; what is not finite or not known is
    None.
    """
    rows = []
    for outcome in outcomes:
        names = (outcome.source, outcome.trained_on or outcome.source, outcome.detector)
        intervals = {"auroc": outcome.auroc_interval, "false_positive_rate": _rate_interval(outcome)}
        for metric in FLAGGED:
            if (share := outcome.metrics["test"].get(metric)) is not None:
                normal = outcome.counts["test"]["normal"]
                intervals[metric] = binomial_interval(round(share * normal), normal)
        numbers = outcome_numbers(outcome)
        numbers.setdefault("val", {})["threshold"] = outcome.threshold
        numbers["test"]["seconds"] = outcome.seconds
        for split, metrics in numbers.items():
            for metric, value in metrics.items():
                if metric not in ("auroc_low", "auroc_high"):
                    interval = intervals.get(metric, (None, None)) if split == "test" else (None, None)
                    found = [None if value is None else float(value), *interval]
                    rows.append((*names, split, metric, *(plain(number) for number in found)))
    rows += [(one.source, one.trained_on, one.detector, "test", FAILED, None, None, None) for one in failures]
    return {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)}


def _rate_interval(outcome: Outcome) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of the share of normal `test` images that are flagged."""
    test = outcome.scores["test"]
    normal = test.scores[test.labels == 0]
    return binomial_interval(int((normal > outcome.threshold).sum()), len(normal))


def scores_table(outcomes: Sequence[Outcome], facts: Mapping[str, ImageFacts] | None = None) -> dict[str, list[Any]]:
    """List, as columns, the score of every image of `val` and `test` by every detector.

    `path` is the file, or that which the image was made from; `anomalous` 0 or 1; `score` higher = more anomalous;
    `p_value` conformal, against the normal images of `val`; `flagged`: score above the threshold.
    """
    names = ("source", "trained_on", "split", "detector", "anomalous", "score", "p_value", "flagged")
    table: dict[str, list[Any]] = {name: [] for name in ("id", *ImageFacts._fields, *names)}
    for outcome in outcomes:
        for split, found in outcome.scores.items():
            number = len(found.ids)
            table["id"] += found.ids
            known = [(facts or {}).get(name, _UNKNOWN) for name in found.ids]
            for column, values in zip(ImageFacts._fields, zip(*known, strict=True), strict=True):
                table[column] += values
            table["source"] += [outcome.source] * number
            table["trained_on"] += [outcome.trained_on or outcome.source] * number
            table["split"] += [split] * number
            table["detector"] += [outcome.detector] * number
            table["anomalous"] += found.labels.tolist()
            table["score"] += found.scores.tolist()
            table["p_value"] += outcome.p_values(split).tolist()
            table["flagged"] += (found.scores > outcome.threshold).tolist()
    return table


def results_document(report: DetectionReport) -> dict[str, Any]:
    """The content of `results.json`, JSON types only; its `mean` is detector to split to metric."""
    means = {detector: mean_numbers(group) for detector, group in by_detector(report.outcomes).items()}
    document = {
        "experiment": report.experiment,
        "provenance": report.provenance,
        "outcomes": [_outcome_document(outcome) for outcome in report.outcomes],
        "failures": [asdict(failure) for failure in report.failures],
        MEAN: means,
    }
    return {key: plain(value) for key, value in document.items()}


def plain(value: Any) -> Any:
    """Convert to JSON types: numbers that are not finite become None, other objects their text."""
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
    return {name: getattr(outcome, name) for name in _WRITTEN} | {"auroc_interval": {"low": low, "high": high}}


def csv_text(heads: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under their heads as CSV; None is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return buffer.getvalue()
