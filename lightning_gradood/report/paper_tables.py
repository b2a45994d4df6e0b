"""The paper's Tables 1 and 2 from finished runs beside the paper's own numbers, as Markdown, LaTeX, CSV and on a page."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_gradood.report.names import detector_title
from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import ABSENT, Cell, Table, csv_text, marked, not_transferred

_SAME = {  # sources as the experiment files name them, and as the paper's Table 2 does; resized images only
    "svhn": "SVHN",
    "cifar10": "CIFAR-10",
    "tiny_imagenet_resize": "ImageNet",
    "lsun_resize": "LSUN",
}


@dataclass(frozen=True)
class TableSettings:
    """Settings of the tables and the page.

    Args:
        accuracy: which accuracy Table 2 shows; `detection_accuracy` is the oracle's (Lee et al. 2018), the best
            balanced accuracy of any threshold.
        aupr: which side is positive in Table 2's AUPR, the anomalous (`aupr_out`) or the normal (`aupr_in`); the paper
            does not say which its column has.
        columns: detectors of Table 2 in the paper's layout, those that were run; every detector stands in the full
            table.
        same: source name to the paper's name of the same images, for the paper's numbers beside ours.
        near: the source whose image is the near one of Figure 1; by default the first that is no attack.
        far: the source whose image is the far one; by default the last that is no attack.
    """

    accuracy: Literal["detection_accuracy", "accuracy_at_val_threshold", "accuracy_at_0.5"] = "detection_accuracy"
    aupr: Literal["aupr_out", "aupr_in"] = "aupr_out"
    columns: list[str] = field(
        default_factory=lambda: ["baseline", "odin", "mahalanobis_p_fe", "energy", "mlp_all_ones", "mlp"]
    )
    same: dict[str, str] = field(default_factory=lambda: dict(_SAME))
    near: str | None = None
    far: str | None = None


@dataclass(frozen=True)
class OverSeeds:
    """One number of a table: a share in [0, 1] for each seed, and the paper's number, if it has one."""

    values: tuple[float, ...]
    paper: float | None = None

    @property
    def mean(self) -> float:
        """Arithmetic mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds (n − 1); None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """The number in %, with two decimals."""
        spread = "" if self.spread is None else f" ± {100 * self.spread:.2f}"
        return f"{100 * self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Row:
    """The numbers of all detectors on one source; `metrics` is detector to `test` metric to a value per seed.

    Args:
        experiment: its name.
        dataset: what the classifier was trained on, as the tables say it.
        network: the classifier, as the tables say it.
        paper: data set and network under which the paper's numbers are looked up.
        made_by: about perturbed sources, else empty.
    """

    experiment: str
    dataset: str
    network: str
    paper: tuple[str, str]
    source: str
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def number(self, detector: str, metric: str, paper: float | None = None) -> OverSeeds | None:
        """The number of a detector over seeds; None if it has none."""
        values = self.metrics.get(detector, {}).get(metric, [])
        return OverSeeds(tuple(values), paper) if values else None

    def add(self, run: Run) -> None:
        """Add the numbers of one seed; detectors that were trained on one other source are not of the paper's protocol."""
        for one in not_transferred(run.outcomes):
            if one.source == self.source:
                metrics = self.metrics.setdefault(one.detector, {})
                for metric, value in one.metrics["test"].items():
                    if not math.isnan(value):
                        metrics.setdefault(metric, []).append(value)


METHODS_1 = ("baseline", "lid", "mahalanobis_v", "mahalanobis_p", "mahalanobis_fe", "mahalanobis_p_fe", "ours")
METHODS_2 = ("baseline", "odin", "mahalanobis_p_fe", "energy", "ours")
METRICS_2 = ("accuracy", "auroc", "aupr")

# Lee et al. 2022, Table 1: CIFAR-10, AUROC in %; the columns are METHODS_1.
_TABLE_1 = """
ResNet   FGSM     51.20 90.06 81.69 84.25 99.95 99.95 93.45
ResNet   BIM      49.94 99.21 87.09 89.20 100.0 100.0 96.19
ResNet   C&W      53.40 76.47 74.51 75.71 92.78 92.79 97.07
ResNet   PGD      50.03 67.48 56.27 57.57 65.23 75.98 95.82
ResNet   IterLL   60.40 85.17 62.32 64.10 85.10 92.10 98.17
ResNet   Semantic 52.29 86.25 64.18 65.79 83.95 84.38 90.15
DenseNet FGSM     52.76 98.23 86.88 87.24 99.98 99.97 96.83
DenseNet BIM      49.67 100.0 89.19 89.17 100.0 100.0 96.85
DenseNet C&W      54.53 80.58 75.77 76.16 90.83 90.76 97.05
DenseNet PGD      49.87 83.01 70.39 66.52 86.94 83.61 96.77
DenseNet IterLL   55.43 83.16 70.17 66.61 83.20 77.84 98.53
DenseNet Semantic 53.54 81.41 62.16 62.15 67.98 67.29 89.55
"""

# Lee et al. 2022, Table 2: in %; the columns are METHODS_2 for each of METRICS_2. Energy has no accuracy there. The paper's
# "Mahalanobis" is taken for its best variant, with preprocessing and ensemble.
_TABLE_2 = """
CIFAR-10 ResNet   SVHN     83.36 88.81 91.95 - 98.04   88.30 94.93 97.10 95.72 99.84   88.26 95.45 96.12 97.26 99.98
CIFAR-10 ResNet   ImageNet 84.01 85.21 97.45 - 91.28   90.06 91.86 99.68 84.95 96.92   89.26 91.60 99.60 84.60 97.21
CIFAR-10 ResNet   LSUN     87.34 88.42 98.60 - 98.37   92.79 94.48 99.86 92.39 99.86   92.30 94.22 99.82 95.40 99.87
SVHN     ResNet   CIFAR-10 79.98 80.12 88.84 - 97.90   81.50 81.49 95.05 98.85 99.79   81.01 80.95 90.25 99.57 98.11
SVHN     ResNet   ImageNet 81.70 81.92 96.17 - 97.74   83.69 83.82 99.23 98.18 99.77   82.54 82.60 98.17 99.30 97.93
SVHN     ResNet   LSUN     80.96 81.15 97.50 - 99.04   82.85 82.98 99.54 97.72 99.93   81.97 82.01 98.84 99.09 99.21
CIFAR-10 DenseNet SVHN     87.71 86.80 95.75 - 98.92   93.51 94.51 98.96 89.33 99.94   94.60 95.20 97.21 94.01 99.99
CIFAR-10 DenseNet ImageNet 84.93 91.16 96.83 - 90.07   91.50 96.93 99.45 86.17 96.44   91.02 96.85 99.29 87.20 96.41
CIFAR-10 DenseNet LSUN     85.58 91.91 98.08 - 99.20   92.09 97.51 99.74 92.77 99.96   91.71 97.51 99.72 95.57 99.96
SVHN     DenseNet CIFAR-10 86.61 86.25 96.50 - 98.34   91.90 91.76 99.02 90.63 99.82   92.12 92.38 94.40 94.30 98.36
SVHN     DenseNet ImageNet 90.22 90.31 98.89 - 98.21   94.78 95.08 99.84 87.51 99.81   94.76 95.53 99.37 92.15 98.16
SVHN     DenseNet LSUN     89.14 89.13 99.49 - 99.52   94.12 94.52 99.92 83.45 99.96   94.32 95.20 99.54 89.33 99.70
"""


def paper_number(dataset: str, network: str, source: str, method: str, metric: str) -> float | None:
    """Look up one number of the paper, a share in [0, 1]; None where it has none.

    Args:
        dataset: the classifier's, CIFAR-10 or SVHN.
        network: ResNet or DenseNet.
        source: attack (FGSM, BIM, C&W, PGD, IterLL, Semantic) or images (SVHN, CIFAR-10, ImageNet, LSUN).
        method: one of METHODS_1 or METHODS_2.
        metric: one of METRICS_2; Table 1 has `auroc` only.

    Reference:
        Lee et al. 2022, Tables 1 and 2.
    """
    text = _NUMBERS.get((dataset, network, source, method, metric), "-")
    return None if text == "-" else float(text) / 100


def _numbers() -> dict[tuple[str, str, str, str, str], str]:
    found = {}
    for line in _TABLE_1.strip().splitlines():
        network, source, *values = line.split()
        for method, value in zip(METHODS_1, values, strict=True):
            found["CIFAR-10", network, source, method, "auroc"] = value
    for line in _TABLE_2.strip().splitlines():
        dataset, network, source, *values = line.split()
        columns = [(method, metric) for metric in METRICS_2 for method in METHODS_2]
        for (method, metric), value in zip(columns, values, strict=True):
            found[dataset, network, source, method, metric] = value
    return found


_NUMBERS = _numbers()


AUDIT = "image_statistics"  # a baseline that reads no network; never counted as best
_ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "cw": "C&W", "pgd": "PGD", "iterll": "IterLL", "semantic": "Semantic"}
_TITLES = {
    "detection_accuracy": "Detection accuracy",
    "accuracy_at_val_threshold": "Accuracy (threshold of val)",
    "accuracy_at_0.5": "Accuracy (at 0.5)",
    "auroc": "AUROC",
    "aupr_out": "AUPR (anomalous positive)",
    "aupr_in": "AUPR (normal positive)",
}


_OURS = {
    "mlp": "Ours",
    "mlp_all_ones": "Ours (all ones)",
    "mlp_on_synthetic": "Ours (synthetic)",
    AUDIT: "(image statistics)",
}


def title(detector: str) -> str:
    """Name of a detector as in the paper's tables, where its own method is `ours`."""
    return _OURS.get(detector) or detector_title(detector)


Lines = list[tuple[tuple[str, ...], dict[str, OverSeeds | None]]]


@dataclass(frozen=True)
class PaperTable:
    """A table with heads for its row heads, detectors as columns, and rows of (row heads, detector to cell)."""

    name: str
    caption: str
    heads: tuple[str, ...]
    detectors: list[str]
    rows: Lines


def table_1(rows: Sequence[Row]) -> PaperTable:
    """AUROC on attacked (and corrupted) images, a row for each classifier and attack."""
    made = _in_order([row for row in rows if row.made_by])
    detectors = _ordered(made, METHODS_1)
    body: Lines = [
        ((_model(row), _ATTACKS.get(row.source, row.source)), _cells(row, detectors, "auroc")) for row in made
    ]
    return PaperTable("table_1", "Adversarial detection, AUROC.", ("Model", "Attack"), detectors, body)


def table_2(rows: Sequence[Row], settings: TableSettings) -> PaperTable:
    """Detection accuracy, AUROC and AUPR on other images: three blocks of a row for each classifier and source."""
    found = [row for row in rows if not row.made_by]
    detectors = _ordered(found, METHODS_2)
    metrics = dict(zip(METRICS_2, (settings.accuracy, "auroc", settings.aupr), strict=True))
    body: Lines = [
        ((_TITLES[metric], _model(row), row.source), _cells(row, detectors, metric, kind, settings.same))
        for kind, metric in metrics.items()
        for row in found
    ]
    return PaperTable("table_2", "Out-of-distribution detection.", ("Metric", "In", "Out"), detectors, body)


def best_of(cells: Mapping[str, OverSeeds | None]) -> set[str]:
    """Detectors with the highest mean as it is printed, ties included; the audit is left out."""
    means = {name: round(100 * cell.mean, 2) for name, cell in cells.items() if cell and name != AUDIT}
    return {name for name, mean in means.items() if mean == max(means.values())}


def _in_order(rows: Sequence[Row]) -> list[Row]:
    experiments = list(dict.fromkeys(row.experiment for row in rows))
    attacks = [*_ATTACKS]
    place = {
        source: attacks.index(source) if source in attacks else len(attacks) for source in {row.source for row in rows}
    }
    return sorted(rows, key=lambda row: (experiments.index(row.experiment), place[row.source]))


def _ordered(rows: Sequence[Row], paper: Sequence[str]) -> list[str]:
    """The paper's methods in its order, with ours last, then all others, the audit at the end."""
    run = list(dict.fromkeys(detector for row in rows for detector in row.metrics))
    known = [*(method for method in paper if method != "ours"), "mlp_all_ones", "mlp"]
    others = [detector for detector in run if detector not in known]
    return [*(d for d in known if d in run), *sorted(others, key=lambda detector: detector == AUDIT)]


def _cells(
    row: Row, detectors: Sequence[str], metric: str, kind: str = "auroc", same: dict[str, str] | None = None
) -> dict[str, OverSeeds | None]:
    source = (_ATTACKS if row.made_by else same or {}).get(row.source, "")
    ours = "mlp_all_ones" if "mlp_all_ones" in row.metrics else "mlp"  # the all-ones label alone is the paper's method
    cells = {}
    for detector in detectors:
        method = "ours" if detector == ours else detector
        cells[detector] = row.number(detector, metric, paper_number(*row.paper, source, method, kind))
    return cells


def _model(row: Row) -> str:
    return f"{row.dataset} ({row.network})"


_BAR = r"\|"  # in Markdown
NOTE = "Mean ± standard deviation over seeds, in %; best of each row in bold; [the paper's number, on its own images]."


@dataclass(frozen=True)
class Layout:
    """A table with its caption and what explains it."""

    caption: str
    note: str
    table: Table

    @property
    def markdown(self) -> str:
        """A Markdown table under its caption."""
        return f"**{self.caption}** {self.note}\n\n{self.table.text('pipe', bar=_BAR)}\n"

    @property
    def latex(self) -> str:
        """A LaTeX table for booktabs."""
        caption = re.sub("([&%_#])", r"\\\1", f"{self.caption} {self.note}")
        table = self.table.text("latex_booktabs")
        text = f"\\begin{{table}}\n\\caption{{{caption}}}\n{table}\n\\end{{table}}\n"
        return re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text).replace("±", r"$\pm$")


def full_layout(table: PaperTable) -> Layout:
    """A column for each detector."""
    rows: list[list[str | Cell]] = [[*keys, *_cells_of(numbers, table.detectors)] for keys, numbers in table.rows]
    return Layout(table.caption, NOTE, Table([*table.heads, *map(title, table.detectors)], rows, len(table.heads)))


def paper_layout(table: PaperTable, columns: Sequence[str]) -> Layout:
    """Table 2 as the paper prints it: a column for each metric, the methods' numbers separated by slashes."""
    shown = [detector for detector in columns if detector in table.detectors]
    metrics = list(dict.fromkeys(metric for (metric, *_), _ in table.rows))
    places = list(dict.fromkeys(tuple(place) for (_, *place), _ in table.rows))
    numbers = {heads: {name: found[name] for name in shown} for heads, found in table.rows}
    lines = [
        [*place, *(" / ".join(map(marked, _cells_of(numbers[metric, *place], shown))) for metric in metrics)]
        for place in places
    ]
    note = f"{' / '.join(map(title, shown))}. {NOTE.replace('each row', 'these')}"
    return Layout(table.caption, note, Table(["In", "Out", *metrics], lines, 2 + len(metrics)))


def grids(table: PaperTable) -> list[tuple[str, Table]]:
    """The table for a page, a part for each metric where it has several, each with its heading."""
    whole = full_layout(table).table
    if table.heads[0] != "Metric":
        return [("", whole)]
    metrics = dict.fromkeys(str(row[0]) for row in whole.rows)
    parts = {metric: [row[1:] for row in whole.rows if row[0] == metric] for metric in metrics}
    return [(metric, Table(whole.heads[1:], rows, whole.words - 1)) for metric, rows in parts.items()]


def tables_csv(tables: Iterable[PaperTable]) -> str:
    """One line for each number, unrounded; shares in [0, 1]."""
    rows = []
    for table in tables:
        for keys, numbers in table.rows:
            best = best_of(numbers)
            for detector, one in numbers.items():
                if one is not None:
                    found = (one.mean, one.spread, len(one.values), int(detector in best), one.paper)
                    rows.append((table.name, " / ".join(keys), detector, *found))
    return csv_text(("table", "row", "detector", "mean", "spread", "seeds", "best", "paper"), rows)


def _cells_of(numbers: Mapping[str, OverSeeds | None], detectors: Sequence[str]) -> list[Cell]:
    best, cells = best_of(numbers), []
    for detector in detectors:
        one = numbers[detector]
        paper = "" if one is None or one.paper is None else f"[{100 * one.paper:.2f}]"
        cells.append(Cell(one.text if one else ABSENT, paper, detector in best))
    return cells


def summary(table: PaperTable) -> str:
    """A sentence that counts on how many rows each method is best by AUROC."""
    rows = [(heads, numbers) for heads, numbers in table.rows if table.heads[0] != "Metric" or heads[0] == "AUROC"]
    several = len({heads[-2] for heads, _ in rows}) > 1  # classifiers
    wins: dict[str, list[str]] = {}
    for (*_, model, source), numbers in rows:
        for detector in best_of(numbers):
            wins.setdefault(detector, []).append(f"{source} with {model}" if several else source)
    ranked = sorted(wins.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{title(detector)} on {_counted(places, len(rows))}" for detector, places in ranked]
    return f"{table.caption.split(',')[0].rstrip('.')}, by mean AUROC, the best (ties counted for each): {'; '.join(parts)}."


def _counted(places: Sequence[str], rows: int) -> str:
    return f"all {rows}" if 1 < len(places) == rows else f"{len(places)} of {rows} ({', '.join(places)})"
