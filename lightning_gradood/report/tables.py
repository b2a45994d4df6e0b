"""The table a run ends with."""

import math
from collections.abc import Sequence

from lightning_gradood.detectors import Outcome
from lightning_gradood.report.bundle import MEAN, by_detector
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
_HEADER = ["source", "detector", *(f"n {split}" for split in _SPLITS), "success", "AUROC", "95 % interval", *_METRICS]
_SUCCESS = _HEADER.index("success")  # a column that is there if anything was attacked
_TEXT_COLUMNS = 2
_ABSENT = "-"
_SUCCESS_NOTE = "success = share of attacked or corrupted images that the classifier no longer gives their class.\n"
_NOTE = (
    "In % on the test split; n = normal+anomalous images. AUPR-in, FPR95: normal is positive; AUPR-out: anomalous is.\n"
    "Accuracies: oracle = best balanced accuracy of any threshold; 0.5 = the MLP's own; val = threshold chosen on val."
)


def console_table(outcomes: list[Outcome]) -> str:
    """Lay the test results out as plain text, one row per source and detector.

    Args:
        outcomes: of all sources and detectors. A detector with more than one source gets a row of means after them.

    Returns:
        Lines joined by newlines: header, rule, rows, rule, a note that defines the columns. Percentages with two
        decimals, `-` where a number does not exist.
    """
    groups = by_detector(outcomes)
    body = [_row(outcome) for group in groups.values() for outcome in group]
    means = [_mean_row(detector, group) for detector, group in groups.items() if len(group) > 1]
    header, note = list(_HEADER), _SUCCESS_NOTE + _NOTE
    if all(row[_SUCCESS] == _ABSENT for row in body):
        note = _NOTE
        for row in (header, *body, *means):
            del row[_SUCCESS]
    widths = [max(len(cell) for cell in column) for column in zip(header, *body, *means, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_aligned(header, widths), rule, *(_aligned(row, widths) for row in body), rule]
    if means:
        lines += [*(_aligned(row, widths) for row in means), rule]
    return "\n".join([*lines, note])


def number_table(outcomes: list[Outcome]) -> tuple[list[str], list[list[str | float | None]]]:
    """Tabulate every number, one row per source, detector and split, for loggers that show tables.

    Args:
        outcomes: of all sources and detectors.

    Returns:
        Column names (`source`, `detector`, `split`, then every metric that occurs) and rows; rates in [0, 1], None
        where a number does not exist.
    """
    numbered = [
        (outcome.source, outcome.detector, split, numbers)
        for outcome in outcomes
        for split, numbers in outcome_numbers(outcome).items()
    ]
    metrics = list(dict.fromkeys(name for *_, numbers in numbered for name in numbers))
    rows = [[*names, *(numbers.get(metric) for metric in metrics)] for *names, numbers in numbered]
    return ["source", "detector", "split", *metrics], rows


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with two decimals, `-` if there is none."""
    return _ABSENT if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _row(outcome: Outcome) -> list[str]:
    low, high = (percent(bound) for bound in outcome.auroc_interval)
    counts = [_count(outcome.counts.get(split)) for split in _SPLITS]
    success = percent(outcome.metrics["test"].get("attack_success"))
    return [outcome.source, outcome.detector, *counts, success, *_rates(outcome.metrics["test"], f"[{low}, {high}]")]


def _mean_row(detector: str, outcomes: "Sequence[Outcome]") -> list[str]:
    return [MEAN, detector, *[_ABSENT] * (len(_SPLITS) + 1), *_rates(mean_numbers(outcomes)["test"], _ABSENT)]


def _rates(metrics: dict[str, float], interval: str) -> list[str]:
    return [percent(metrics.get("auroc")), interval, *(percent(metrics.get(key)) for key in _METRICS.values())]


def _count(counts: dict[str, int] | None) -> str:
    return _ABSENT if counts is None else f"{counts['normal']}+{counts['anomalous']}"


def _aligned(cells: list[str], widths: list[int]) -> str:
    text = [cell.ljust(width) for cell, width in zip(cells[:_TEXT_COLUMNS], widths, strict=False)]
    numbers = [cell.rjust(width) for cell, width in zip(cells[_TEXT_COLUMNS:], widths[_TEXT_COLUMNS:], strict=True)]
    return "  ".join(text + numbers).rstrip()
