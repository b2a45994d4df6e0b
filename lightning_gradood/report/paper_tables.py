"""The paper's Tables 1 and 2 from finished runs beside the paper's own numbers, as Markdown, LaTeX, CSV and on a page."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import ABSENT, Cell, Table, not_transferred, percent, title

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
        same: source name to the paper's name of the same images, for the paper's numbers beside ours.
        near: the source whose image is the near one of Figure 1; by default the first that is no attack.
        far: the source whose image is the far one; by default the last that is no attack.
    """

    same: dict[str, str] = field(default_factory=lambda: dict(_SAME))
    near: str | None = None
    far: str | None = None


class OverSeeds(NamedTuple):
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


@dataclass(frozen=True)
class Row:
    """The numbers of all detectors on one source; `metrics` is detector to `test` metric to a value per seed.

    Args:
        model: classifier and what it was trained on, as the tables say it.
        paper: data set and network under which the paper's numbers are looked up.
        perturbed: whether the images are attacked or corrupted normal ones.
    """

    model: str
    paper: tuple[str, str]
    source: str
    perturbed: bool
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)

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
NOTE = "Mean ± standard deviation over seeds, in %; best of each row in bold; [the paper's number, on its own images]."
_ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "cw": "C&W", "pgd": "PGD", "iterll": "IterLL", "semantic": "Semantic"}
_OURS = {
    "mlp": "Ours",
    "mlp_all_ones": "Ours (all ones)",
    "mlp_on_synthetic": "Ours (synthetic)",
    AUDIT: "(image statistics)",
}
# The paper does not say which side is positive in its AUPR, nor how its accuracy is taken; accuracy is the oracle's (Lee et
# al. 2018), the best balanced accuracy of any threshold.
_METRICS = {
    "accuracy": ("Detection accuracy", "detection_accuracy"),
    "auroc": ("AUROC", "auroc"),
    "aupr": ("AUPR (anomalous positive)", "aupr_out"),
}


def paper_title(detector: str) -> str:
    """Name of a detector as in the paper's tables, where its own method is `ours`."""
    return _OURS.get(detector) or title(detector)


@dataclass(frozen=True)
class PaperTable:
    """A table with heads for its row heads, detectors as columns, and rows of (row heads, detector to number)."""

    name: str
    caption: str
    heads: tuple[str, ...]
    detectors: list[str]
    rows: Sequence[tuple[tuple[str, ...], dict[str, OverSeeds | None]]]

    @property
    def table(self) -> Table:
        """In %, the paper's numbers in brackets, the best of each row in bold."""
        lines: list[list[str | Cell]] = []
        for keys, numbers in self.rows:
            best = best_of(numbers)
            lines.append([*keys, *(_cell(numbers[name], name in best) for name in self.detectors)])
        return Table([*self.heads, *map(paper_title, self.detectors)], lines, len(self.heads))

    @property
    def markdown(self) -> str:
        """A Markdown table under its caption."""
        return f"**{self.caption}** {NOTE}\n\n{self.table.text('pipe')}\n"

    @property
    def latex(self) -> str:
        """A LaTeX table for booktabs."""
        caption = re.sub("([&%_#])", r"\\\1", f"{self.caption} {NOTE}")
        text = f"\\begin{{table}}\n\\caption{{{caption}}}\n{self.table.text('latex_booktabs')}\n\\end{{table}}\n"
        return re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text).replace("±", r"$\pm$")


def table_1(rows: Sequence[Row]) -> PaperTable:
    """AUROC on attacked (and corrupted) images, a row for each classifier and attack."""
    order, found = [*_ATTACKS], list[Row]()
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.perturbed and row.model == model]
        found += sorted(own, key=lambda row: order.index(row.source) if row.source in order else len(order))
    detectors = _ordered(found, METHODS_1)
    body = [
        ((row.model, _ATTACKS.get(row.source, row.source)), _numbers_of(row, detectors, "auroc", _ATTACKS))
        for row in found
    ]
    return PaperTable("table_1", "Adversarial detection, AUROC.", ("Model", "Attack"), detectors, body)


def table_2(rows: Sequence[Row], settings: TableSettings) -> PaperTable:
    """Detection accuracy, AUROC and AUPR on other images: three blocks of a row for each classifier and source."""
    found = [row for row in rows if not row.perturbed]
    detectors = _ordered(found, METHODS_2)
    body = [
        ((_METRICS[kind][0], row.model, row.source), _numbers_of(row, detectors, kind, settings.same))
        for kind in METRICS_2
        for row in found
    ]
    return PaperTable("table_2", "Out-of-distribution detection.", ("Metric", "In", "Out"), detectors, body)


def best_of(numbers: Mapping[str, OverSeeds | None]) -> set[str]:
    """Detectors with the highest mean as it is printed, ties included; the audit is left out."""
    means = {name: round(100 * one.mean, 2) for name, one in numbers.items() if one and name != AUDIT}
    return {name for name, mean in means.items() if mean == max(means.values())}


def _ordered(rows: Sequence[Row], paper: Sequence[str]) -> list[str]:
    """The paper's methods in its order, with ours last, then all others, the audit at the end."""
    run = list(dict.fromkeys(detector for row in rows for detector in row.metrics))
    known = [*(method for method in paper if method != "ours"), "mlp_all_ones", "mlp"]
    others = [detector for detector in run if detector not in known]
    return [*(d for d in known if d in run), *sorted(others, key=lambda detector: detector == AUDIT)]


def _numbers_of(row: Row, detectors: Sequence[str], kind: str, same: Mapping[str, str]) -> dict[str, OverSeeds | None]:
    """One metric of each detector over seeds, with the paper's number; `same` is source to the paper's name of it."""
    ours = "mlp_all_ones" if "mlp_all_ones" in row.metrics else "mlp"  # the all-ones label alone is the paper's method
    found: dict[str, OverSeeds | None] = {}
    for detector in detectors:
        values = row.metrics.get(detector, {}).get(_METRICS[kind][1])
        method = "ours" if detector == ours else detector
        paper = paper_number(*row.paper, same.get(row.source, ""), method, kind)
        found[detector] = OverSeeds(tuple(values), paper) if values else None
    return found


def _cell(number: OverSeeds | None, best: bool) -> Cell:
    if number is None:
        return Cell(ABSENT)
    spread = "" if number.spread is None else f" ± {percent(number.spread)}"
    paper = "" if number.paper is None else f"[{percent(number.paper)}]"
    return Cell(f"{percent(number.mean)}{spread}", paper, best)


CSV_COLUMNS = {
    **{"table": str, "row": str, "detector": str, "mean": float, "spread": float},
    **{"seeds": int, "best": int, "paper": float},
}


def csv_rows(tables: Iterable[PaperTable]) -> list[dict[str, Any]]:
    """A row of `CSV_COLUMNS` for each number, unrounded; shares in [0, 1]."""
    rows = []
    for table in tables:
        for keys, numbers in table.rows:
            best = best_of(numbers)
            for name, one in numbers.items():
                if one is not None:
                    about = (table.name, " / ".join(keys), name, one.mean, one.spread, len(one.values))
                    rows.append(dict(zip(CSV_COLUMNS, (*about, int(name in best), one.paper), strict=True)))
    return rows
