"""Tables: their one model, names for readers, the results of a run printed, as matrices, and under the names of loggers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from tabulate import SEPARATING_LINE, tabulate

from lightning_gradood.data import BUILT_IN
from lightning_gradood.evaluation import FLAGGED, Failure, Outcome
from lightning_gradood.records import SPLITS

MEAN = "mean"  # in place of a source, in numbers that are means over sources
ABSENT = "-"  # in place of a number that there is not

_TITLES = {
    "baseline": "Baseline", "odin": "ODIN", "lid": "LID", "energy": "Energy", "gradnorm": "GradNorm", "knn": "kNN",
    "mahalanobis_v": "M(V)", "mahalanobis_p": "M(P)", "mahalanobis_fe": "M(FE)", "mahalanobis_p_fe": "M(P+FE)",
    "mahalanobis_pp": "Mahalanobis++", "gradient_gaussian": "Gradient Gaussian", "gradient_knn": "Gradient kNN",
    "mlp": "MLP", "mlp_all_ones": "MLP (all ones)", "mlp_on_synthetic": "MLP (synthetic outliers)",
    "synthetic_outliers": "Synthetic outliers", "image_statistics": "Image statistics", "consistency": "Consistency",
    "one_pass": "One pass", "no_anomalies": "No anomalies",
    "fgsm": "FGSM", "bim": "BIM", "cw": "C&W", "pgd": "PGD", "iterll": "IterLL", "semantic": "Semantic",
    "svhn": "SVHN", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "TinyImageNet",
    "tiny_imagenet_resize": "TinyImageNet (resize)", "lsun_resize": "LSUN (resize)", "lsun_crop": "LSUN (crop)",
}  # fmt: skip


def title(name: str) -> str:
    """The literature's name of a detector or a source, for figures; an unknown name is returned unchanged.

    Example:
        >>> title("mahalanobis_p_fe"), title("odin@fgsm"), title("builtin_cw"), title("mine")
        ('M(P+FE)', 'ODIN (trained on FGSM)', 'C&W (built in)', 'mine')
    """
    if name.startswith(BUILT_IN):
        return f"{title(name.removeprefix(BUILT_IN))} (built in)"
    name, sign, source = name.partition("@")
    found = _TITLES.get(name, name)
    return f"{found} (trained on {title(source)})" if sign else found


class Cell(NamedTuple):
    """One cell of a table: `text`, `small` beside it or below it in small type, `best` in bold."""

    text: str
    small: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{f'**{self.text}**' if self.best else self.text} {self.small}".rstrip()


@dataclass(frozen=True)
class Table:
    """A table as text or on a page; the first `words` columns hold text and are flush left, the others hold numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: int = 1

    def text(self, form: str = "simple") -> str:
        """The table in one of tabulate's formats, the best between `**`."""
        align = ["left"] * self.words + ["right"] * (len(self.heads) - self.words)
        rows = [[str(cell) for cell in row] for row in self.rows]
        return str(tabulate(rows, self.heads, form, colalign=align, disable_numparse=True))


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with two decimals, `-` if there is none."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.2f}"


def brackets(low: float, high: float) -> str:
    """Write an interval of shares in [0, 1] in %, with one decimal."""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


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
        shares = {"prevalence": anomalous / (normal + anomalous)} if normal + anomalous else {}
        numbers[split] = {"n_normal": normal, "n_anomalous": anomalous, **shares, **outcome.metrics.get(split, {})}
    numbers["test"] |= dict(zip(("auroc_low", "auroc_high"), outcome.auroc_interval, strict=True))
    return numbers


def mean_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """Average one detector's metrics over sources with equal weight; a metric that a source lacks has no mean."""
    return {
        split: {
            name: sum(one.metrics[split][name] for one in outcomes) / len(outcomes)
            for name in metrics
            if all(name in one.metrics[split] for one in outcomes)
        }
        for split, metrics in outcomes[0].metrics.items()
    }


def detection_scalars(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Every final number as `detection/<source or mean>/<detector>/<val|test>/<metric>`, for loggers and sweeps.

    The mean exists for a single source too, so that a sweep always has its key; a transferred detector is
    `<detector>@<its source>`.
    """
    found = [(one.source, one.label, outcome_numbers(one)) for one in outcomes]
    found += [(MEAN, detector, mean_numbers(group)) for detector, group in by_detector(outcomes).items()]
    return {
        f"detection/{source}/{detector}/{split}/{metric}": value
        for source, detector, numbers in found
        for split in ("val", "test")
        for metric, value in numbers[split].items()
    }


def curve_rows(outcomes: Sequence[Outcome]) -> list[tuple[int, dict[str, float]]]:
    """Training curves of all detectors by increasing epoch: epoch, `detector/<source>/<detector>/<metric>` to value."""
    rows: dict[int, dict[str, float]] = {}
    for outcome in not_transferred(outcomes):  # the others share the curves of the source they were trained on
        for position, point in enumerate(outcome.curves):
            row = rows.setdefault(int(point.get("epoch", position)), {})
            names = {metric: f"detector/{outcome.source}/{outcome.detector}/{metric}" for metric in point}
            row |= {names[metric]: value for metric, value in point.items() if metric != "epoch"}
    return sorted(rows.items())


class Matrix(NamedTuple):
    """AUROC of one detector in [0, 1], float64 [k, k]; row = trained on, column = tested on, NaN where none exists."""

    sources: list[str]
    aurocs: np.ndarray

    @property
    def table(self) -> Table:
        """In % with one decimal, with the mean of each row over the sources it was not trained on."""
        others = np.where(np.eye(len(self.sources), dtype=bool), np.nan, self.aurocs)
        values = np.column_stack([self.aurocs, np.nanmean(others, axis=1)])
        rows = [
            [source, *(f"{100 * value:.1f}" for value in row)] for source, row in zip(self.sources, values, strict=True)
        ]
        return Table(["trained on", *self.sources, "others"], rows)


def matrices(outcomes: Sequence[Outcome]) -> dict[str, Matrix]:
    """The matrix of each detector that was trained on one source and tested on another."""
    found = {}
    for detector in dict.fromkeys(one.detector for one in outcomes if one.transferred):
        own = [one for one in outcomes if one.detector == detector]
        sources = list(dict.fromkeys(one.source for one in own))
        aurocs = np.full((len(sources), len(sources)), np.nan)
        for one in own:
            aurocs[sources.index(one.trained_on), sources.index(one.source)] = one.metrics["test"]["auroc"]
        found[detector] = Matrix(sources, aurocs)
    return found


_METRICS = {
    "AUPR-in": "aupr_in",
    "AUPR-out": "aupr_out",
    "FPR95": "fpr95_in",
    "acc(oracle)": "detection_accuracy",
    "acc(0.5)": "accuracy_at_0.5",
    "acc(val)": "accuracy_at_val_threshold",
    **{f"FPR({100 * rate:.0f}%)": name for name, rate in FLAGGED.items()},
}
_TRAINED_ON, _SUCCESS = "trained on", "success"  # columns that are left out where they say nothing
TEXT = ("source", "detector", _TRAINED_ON)
FAILED = "failed"  # in place of the AUROC of a detector that could not be fitted or tested
_SUCCESS_NOTE = "success = share of attacked or corrupted images that the classifier no longer gives their class."
_NOTES = [
    "In % on the test split; n = normal+anomalous images. AUPR-in, FPR95: normal is positive; AUPR-out: anomalous is.",
    "Accuracies: oracle = best balanced accuracy of any threshold; 0.5 = the MLP's own; val = threshold chosen on val.",
    "FPR(1%), FPR(5%) = share of normal test images flagged by conformal thresholds for these rates, from normal val images.",
    "The interval is a bootstrap's, or Newcombe's (2006) where few images are on the wrong side: a bootstrap is too sure there.",
]


class ResultTable(NamedTuple):
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
    rows = [
        _row(one.source, detector, one.trained_on or one.source, one.metrics["test"], one)
        for detector, group in groups.items()
        for one in group
    ]
    rows += [_row(one.source, one.detector, one.trained_on, {}) | {"AUROC": FAILED} for one in failures]
    means = []
    for detector, group in groups.items():
        known = {one.trained_on for one in group}
        if len(group) > 1:
            means.append(_row(MEAN, detector, known.pop() if len(known) == 1 else ABSENT, mean_numbers(group)["test"]))
    idle = [name for name in (_TRAINED_ON, _SUCCESS) if all(row[name] in (ABSENT, row["source"]) for row in rows)]
    notes = [f"{FAILED}: `{one.detector}` on `{one.source}`: {one.reason}" for one in failures]
    notes += [_SUCCESS_NOTE] * (_SUCCESS not in idle) + _NOTES
    return ResultTable([name for name in rows[0] if name not in idle], rows, means, notes)


def _row(
    source: str, detector: str, trained_on: str, test: Mapping[str, float], outcome: Outcome | None = None
) -> dict[str, str]:
    """A row of metrics of `test`; that of an outcome has numbers of images and an interval."""
    counts = outcome.counts if outcome else {}
    return {
        "source": source,
        "detector": detector,
        _TRAINED_ON: trained_on,
        **{f"n {split}": counted(counts.get(split)) for split in SPLITS},
        _SUCCESS: percent(test.get("attack_success") if outcome else None),
        "AUROC": percent(test.get("auroc")),
        "95 % interval": brackets(*outcome.auroc_interval) if outcome else ABSENT,
        **{column: percent(test.get(metric)) for column, metric in _METRICS.items()},
    }


def counted(counts: Mapping[str, int] | None) -> str:
    """Numbers of images, normal + anomalous."""
    return ABSENT if counts is None else f"{counts['normal']}+{counts['anomalous']}"


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
    where = "trained on the row's source, tested on the column's"
    below = [
        f"\n{name}: AUROC in %, {where}; others = mean but its own\n{matrix.table.text('plain')}"
        for name, matrix in matrices(outcomes).items()
    ]
    return "\n".join([table, *found.notes, *below])
