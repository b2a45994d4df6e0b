"""Tables: their one model, as text and CSV; the results of a run printed, as matrices, and under the names of loggers."""

import csv
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import SEPARATING_LINE, tabulate

from lightning_gradood.evaluation import FLAGGED, Failure, Outcome
from lightning_gradood.metrics import binomial_interval

MEAN = "mean"  # in place of a source, in numbers that are means over sources
ABSENT = "-"  # in place of a number that there is not


@dataclass(frozen=True)
class Cell:
    """One cell of a table: `text`, `small` beside it or below it in small type, `best` in bold, spanning `rows`."""

    text: str
    small: str = ""
    best: bool = False
    rows: int = 1


@dataclass(frozen=True)
class Table:
    """A table as text or on a page, where consecutive rows with the same first cell share it.

    Args:
        words: how many columns on the left hold text and are flush left; the others hold numbers.
        wrap: whether a page breaks long text into lines.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: int = 1
    wrap: bool = False

    @property
    def lines(self) -> list[list[Cell]]:
        """Rows of cells for a page; the first cell is missing where an earlier row spans it."""
        lines = []
        for key, group in itertools.groupby(self.rows, key=lambda row: row[0]):
            rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row[1:]] for row in group]
            lines += [[Cell(str(key), rows=len(rows)), *rows[0]], *rows[1:]]
        return lines

    def text(self, form: str = "simple", bar: str = "|") -> str:
        """The table in one of tabulate's formats, the best between `**`; `bar` replaces vertical bars."""
        rows = [[marked(cell).replace("|", bar) for cell in row] for row in self.rows]
        align = ["left"] * self.words + ["right"] * (len(self.heads) - self.words)
        heads = [head.replace("|", bar) for head in self.heads]
        return str(tabulate(rows, heads, form, colalign=align, disable_numparse=True))


def marked(cell: str | Cell) -> str:
    """A cell as text, the best between `**`."""
    if isinstance(cell, str):
        return cell
    return f"{f'**{cell.text}**' if cell.best else cell.text} {cell.small}".rstrip()


def csv_text(heads: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under their heads as CSV; None is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return buffer.getvalue()


def by_detector(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by detector, those trained on one other source apart; both in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.label, []).append(outcome)
    return groups


def not_transferred(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Leave out the outcomes of detectors that were trained on one other source, which are shown in a matrix."""
    return [outcome for outcome in outcomes if not outcome.transferred]


Numbers = dict[str, dict[str, float]]  # split to metric to value


def outcome_numbers(outcome: Outcome) -> Numbers:
    """Numbers of one outcome by split: counts, `prevalence`, metrics in [0, 1], interval of the test AUROC."""
    numbers: Numbers = {}
    for split, counts in outcome.counts.items():
        normal, anomalous = counts["normal"], counts["anomalous"]
        numbers[split] = {"n_normal": normal, "n_anomalous": anomalous}
        if normal + anomalous > 0:
            numbers[split]["prevalence"] = anomalous / (normal + anomalous)
    for split, metrics in outcome.metrics.items():
        numbers.setdefault(split, {}).update(metrics)
    low, high = outcome.auroc_interval
    numbers.setdefault("test", {}).update(auroc_low=low, auroc_high=high)
    return numbers


def mean_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """Average one detector's metrics over sources with equal weight; a metric that a source lacks has no mean."""
    means: Numbers = {}
    for split, metrics in outcomes[0].metrics.items():
        everywhere = [name for name in metrics if all(name in other.metrics.get(split, {}) for other in outcomes)]
        means[split] = {
            name: sum(outcome.metrics[split][name] for outcome in outcomes) / len(outcomes) for name in everywhere
        }
    return means


def detection_scalars(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Every final number as `detection/<source or mean>/<detector>/<val|test>/<metric>`, for loggers and sweeps.

    The mean exists for a single source too, so that a sweep always has its key; a transferred detector is
    `<detector>@<its source>`.
    """
    scalars = {}
    for outcome in outcomes:
        scalars.update(_named(outcome.source, outcome.label, outcome_numbers(outcome)))
    for detector, group in by_detector(outcomes).items():
        scalars.update(_named(MEAN, detector, mean_numbers(group)))
    return scalars


def curve_rows(outcomes: Sequence[Outcome]) -> list[tuple[int, dict[str, float]]]:
    """Training curves of all detectors by increasing epoch: epoch, `detector/<source>/<detector>/<metric>` to value."""
    rows: dict[int, dict[str, float]] = {}
    for outcome in not_transferred(outcomes):  # the others share the curves of the source they were trained on
        for position, point in enumerate(outcome.curves):
            row = rows.setdefault(int(point.get("epoch", position)), {})
            for metric, value in point.items():
                if metric != "epoch":
                    row[f"detector/{outcome.source}/{outcome.detector}/{metric}"] = value
    return sorted(rows.items())


def _named(source: str, detector: str, numbers: Numbers) -> dict[str, float]:
    return {
        f"detection/{source}/{detector}/{split}/{metric}": value
        for split, metrics in numbers.items()
        if split in ("val", "test")
        for metric, value in metrics.items()
    }


@dataclass(frozen=True)
class Matrix:
    """AUROC of one detector in [0, 1], float64 [k, k]; row = trained on, column = tested on, NaN where none exists."""

    detector: str
    sources: list[str]
    aurocs: np.ndarray

    @property
    def transfer(self) -> np.ndarray:
        """Mean of each row over the sources it was not trained on, float64 [k]."""
        others = np.where(np.eye(len(self.sources), dtype=bool), np.nan, self.aurocs)
        return np.asarray(np.nanmean(others, axis=1))


def matrices(outcomes: Sequence[Outcome]) -> dict[str, Matrix]:
    """The matrix of each detector that was trained on one source and tested on another."""
    detectors = dict.fromkeys(outcome.detector for outcome in outcomes if outcome.transferred)
    return {name: _matrix(name, [outcome for outcome in outcomes if outcome.detector == name]) for name in detectors}


def matrix_table(matrix: Matrix) -> Table:
    """A matrix in % with one decimal, with the mean of each row over the other sources."""
    rows = [
        [source, *(f"{100 * value:.1f}" for value in [*row, mean])]
        for source, row, mean in zip(matrix.sources, matrix.aurocs, matrix.transfer, strict=True)
    ]
    return Table(["trained on", *matrix.sources, "others"], rows)


def _matrix(detector: str, outcomes: Sequence[Outcome]) -> Matrix:
    sources = list(dict.fromkeys(outcome.source for outcome in outcomes))
    aurocs = np.full((len(sources), len(sources)), np.nan)
    for outcome in outcomes:
        aurocs[sources.index(outcome.trained_on), sources.index(outcome.source)] = outcome.metrics["test"]["auroc"]
    return Matrix(detector, sources, aurocs)


_METRICS = {
    "AUPR-in": "aupr_in",
    "AUPR-out": "aupr_out",
    "FPR95": "fpr95_in",
    "acc(oracle)": "detection_accuracy",
    "acc(0.5)": "accuracy_at_0.5",
    "acc(val)": "accuracy_at_val_threshold",
    **{f"FPR({100 * rate:.0f}%)": name for name, rate in FLAGGED.items()},
}
_SPLITS = ("train", "val", "test")
_TRAINED_ON, _SUCCESS = "trained on", "success"  # columns that are left out where they are empty
TEXT = ("source", "detector", _TRAINED_ON)
FAILED = "failed"  # in place of the AUROC of a detector that could not be fitted or tested
_SUCCESS_NOTE = "success = share of attacked or corrupted images that the classifier no longer gives their class."
_NOTES = [
    "In % on the test split; n = normal+anomalous images. AUPR-in, FPR95: normal is positive; AUPR-out: anomalous is.",
    "Accuracies: oracle = best balanced accuracy of any threshold; 0.5 = the MLP's own; val = threshold chosen on val.",
    "FPR(1%), FPR(5%) = share of normal test images flagged by conformal thresholds for these rates, from normal val images.",
    "The interval is a bootstrap's, or Newcombe's (2006) where few images are on the wrong side: a bootstrap is too sure there.",
]


def console_table(outcomes: Sequence[Outcome], failures: Sequence[Failure] = ()) -> str:
    """Lay the test results out as plain text, one row per source and detector.

    A detector with several sources gets a row of means; one trained on each source and tested on every one a matrix
    below the table. Percentages have two decimals, bounds of intervals one; `-` stands for a missing number.
    """
    found = result_table(outcomes, failures)
    rows, means = ([[row[head] for head in found.heads] for row in part] for part in (found.rows, found.means))
    cells: list[Any] = [found.heads, SEPARATING_LINE, *rows, *([SEPARATING_LINE, *means] if means else [])]
    align = ["left" if column in TEXT else "right" for column in found.heads]
    # The header is a plain row, as tabulate makes columns under a real one two characters wider; drop the rule above.
    _, table = tabulate(cells, (), "simple", colalign=align, disable_numparse=True).split("\n", 1)
    flagged, where = flagged_table(outcomes), "trained on the row's source, tested on the column's"
    below = [f"\n{flagged.text()}"] * bool(flagged.rows) + [
        f"\n{name}: AUROC in %, {where}; others = mean but its own\n{matrix_table(one).text('plain')}"
        for name, one in matrices(outcomes).items()
    ]
    return "\n".join([table, "\n".join(found.notes), *below])


@dataclass(frozen=True)
class ResultTable:
    """The test results as text by column: a row per source and detector, `means` per detector with several sources.

    Columns in `TEXT` hold words, the others numbers in %; `notes` define the columns.
    """

    heads: list[str]
    rows: list[dict[str, str]]
    means: list[dict[str, str]]
    notes: list[str]


def result_table(outcomes: Sequence[Outcome], failures: Sequence[Failure] = ()) -> ResultTable:
    """Test results of all detectors but transferred ones; a failure is a row and a note."""
    groups = by_detector(not_transferred(outcomes))
    body = [_row(outcome) for group in groups.values() for outcome in group]
    body += [_failed_row(failure, list(body[0])) for failure in failures if body]
    means = [_mean_row(detector, group) for detector, group in groups.items() if len(group) > 1]
    idle = [column for column in (_TRAINED_ON, _SUCCESS) if all(row[column] in (ABSENT, row["source"]) for row in body)]
    heads = [column for column in body[0] if column not in idle]
    failed = [f"{FAILED}: `{one.detector}` on `{one.source}`: {one.reason}" for one in failures]
    return ResultTable(heads, body, means, [*failed, *([] if _SUCCESS in idle else [_SUCCESS_NOTE]), *_NOTES])


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with two decimals, `-` if there is none."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _row(outcome: Outcome) -> dict[str, str]:
    low, high = (f"{100 * bound:.1f}" for bound in outcome.auroc_interval)
    names = {"source": outcome.source, "detector": outcome.detector, _TRAINED_ON: outcome.trained_on or outcome.source}
    counts = {f"n {split}": counted(outcome.counts.get(split)) for split in _SPLITS}
    success = percent(outcome.metrics["test"].get("attack_success"))
    return names | counts | {_SUCCESS: success} | _rates(outcome.metrics["test"], f"[{low}, {high}]")


def _failed_row(failure: Failure, columns: Sequence[str]) -> dict[str, str]:
    known = {"source": failure.source, "detector": failure.detector, _TRAINED_ON: failure.trained_on, "AUROC": FAILED}
    return {column: known.get(column, ABSENT) for column in columns}


def _mean_row(detector: str, outcomes: Sequence[Outcome]) -> dict[str, str]:
    known = {outcome.trained_on for outcome in outcomes}
    names = {"source": MEAN, "detector": detector, _TRAINED_ON: known.pop() if len(known) == 1 else ABSENT}
    absent = dict.fromkeys([*(f"n {split}" for split in _SPLITS), _SUCCESS], ABSENT)
    return names | absent | _rates(mean_numbers(outcomes)["test"], ABSENT)


def _rates(metrics: dict[str, float], interval: str) -> dict[str, str]:
    rates = {column: percent(metrics.get(key)) for column, key in _METRICS.items()}
    return {"AUROC": percent(metrics.get("auroc")), "95 % interval": interval, **rates}


def flagged_table(outcomes: Sequence[Outcome]) -> Table:
    """For each detector the share of normal images that it flags at fixed rates, with its interval; maybe no rows."""
    rows = []
    for detector, group in by_detector(not_transferred(outcomes)).items():
        means, images = mean_numbers(group)["test"], group[0].counts["test"]["normal"]
        if FLAGGED.keys() & means.keys():
            cells = [_with_interval(means.get(metric), images) for metric in FLAGGED]
            rows.append([detector, *cells, str(images)])
    return Table(["normal images flagged, %", *(f"at {100 * rate:.0f} %" for rate in FLAGGED.values()), "of"], rows)


def _with_interval(share: float | None, images: int) -> str:
    if share is None:
        return ABSENT
    low, high = binomial_interval(round(share * images), images)
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def counted(counts: Mapping[str, int] | None) -> str:
    """Numbers of images, normal + anomalous."""
    return ABSENT if counts is None else f"{counts['normal']}+{counts['anomalous']}"
