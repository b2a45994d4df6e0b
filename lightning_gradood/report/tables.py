"""The table a run ends with."""

import math
from collections.abc import Sequence

from lightning_gradood.detectors import Outcome
from lightning_gradood.report.bundle import MEAN, by_detector, not_transferred
from lightning_gradood.report.matrix import matrices, matrix_table
from lightning_gradood.report.numbers import mean_numbers, outcome_numbers

_METRICS = {
    "AUPR-in": "aupr_in",
    "AUPR-out": "aupr_out",
    "FPR95": "fpr95_in",
    "acc(oracle)": "detection_accuracy",
    "acc(0.5)": "accuracy_at_0.5",
    "acc(val)": "accuracy_at_val_threshold",
}
_SPLITS = ("train", "val", "test")
_TRAINED_ON, _SUCCESS = "trained on", "success"  # columns that are there where they say something
_TEXT = ("source", "detector", _TRAINED_ON)
_ABSENT = "-"
_SUCCESS_NOTE = "success = share of attacked or corrupted images that the classifier no longer gives their class.\n"
_NOTE = (
    "In % on the test split; n = normal+anomalous images. AUPR-in, FPR95: normal is positive; AUPR-out: anomalous is.\n"
    "Accuracies: oracle = best balanced accuracy of any threshold; 0.5 = the MLP's own; val = threshold chosen on val."
)


def console_table(outcomes: list[Outcome]) -> str:
    """Lay the test results out as plain text, one row per source and detector.

    Args:
        outcomes: of all sources and detectors. A detector with more than one source gets a row of means after them; one
            that was trained on each source and tested on every one gets a matrix below the table.

    Returns:
        Lines joined by newlines: header, rule, rows, rule, a note that defines the columns. Percentages with two
        decimals, `-` where a number does not exist. `trained on` is a column where it is not the tested source.
    """
    groups = by_detector(not_transferred(outcomes))
    body = [_row(outcome) for group in groups.values() for outcome in group]
    means = [_mean_row(detector, group) for detector, group in groups.items() if len(group) > 1]
    idle = [
        column for column in (_TRAINED_ON, _SUCCESS) if all(row[column] in (_ABSENT, row["source"]) for row in body)
    ]
    header = [column for column in body[0] if column not in idle]
    cells = [header, *([row[column] for column in header] for row in (*body, *means))]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    first, *lines = [_aligned(header, row, widths) for row in cells]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [first, rule, *lines[: len(body)], rule, *lines[len(body) :], *([rule] if means else [])]
    notes = [_NOTE if _SUCCESS in idle else _SUCCESS_NOTE + _NOTE]
    return "\n".join([*lines, *notes, *("\n" + matrix_table(matrix) for matrix in matrices(outcomes).values())])


def number_table(outcomes: list[Outcome]) -> tuple[list[str], list[list[str | float | None]]]:
    """Tabulate every number, one row per source, detector and split, for loggers that show tables.

    Args:
        outcomes: of all sources and detectors.

    Returns:
        Column names (`source`, `detector`, `split`, then every metric that occurs) and rows; rates in [0, 1], None
        where a number does not exist.
    """
    numbered = [
        (outcome.source, outcome.label, split, numbers)
        for outcome in outcomes
        for split, numbers in outcome_numbers(outcome).items()
    ]
    metrics = list(dict.fromkeys(name for *_, numbers in numbered for name in numbers))
    rows = [[*names, *(numbers.get(metric) for metric in metrics)] for *names, numbers in numbered]
    return ["source", "detector", "split", *metrics], rows


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with two decimals, `-` if there is none."""
    return _ABSENT if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _row(outcome: Outcome) -> dict[str, str]:
    low, high = (percent(bound) for bound in outcome.auroc_interval)
    names = {"source": outcome.source, "detector": outcome.detector, _TRAINED_ON: outcome.trained_on or outcome.source}
    counts = {f"n {split}": _count(outcome.counts.get(split)) for split in _SPLITS}
    success = percent(outcome.metrics["test"].get("attack_success"))
    return names | counts | {_SUCCESS: success} | _rates(outcome.metrics["test"], f"[{low}, {high}]")


def _mean_row(detector: str, outcomes: "Sequence[Outcome]") -> dict[str, str]:
    known = {outcome.trained_on for outcome in outcomes}
    names = {"source": MEAN, "detector": detector, _TRAINED_ON: known.pop() if len(known) == 1 else _ABSENT}
    absent = dict.fromkeys([*(f"n {split}" for split in _SPLITS), _SUCCESS], _ABSENT)
    return names | absent | _rates(mean_numbers(outcomes)["test"], _ABSENT)


def _rates(metrics: dict[str, float], interval: str) -> dict[str, str]:
    rates = {column: percent(metrics.get(key)) for column, key in _METRICS.items()}
    return {"AUROC": percent(metrics.get("auroc")), "95 % interval": interval, **rates}


def _count(counts: dict[str, int] | None) -> str:
    return _ABSENT if counts is None else f"{counts['normal']}+{counts['anomalous']}"


def _aligned(header: list[str], cells: list[str], widths: list[int]) -> str:
    columns = zip(header, cells, widths, strict=True)
    text = [cell.ljust(width) if column in _TEXT else cell.rjust(width) for column, cell, width in columns]
    return "  ".join(text).rstrip()
