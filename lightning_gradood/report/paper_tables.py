"""The paper's Tables 1 and 2 from finished runs beside the paper's own numbers, as Markdown, LaTeX, CSV and on a page."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import (
    ABSENT,
    Cell,
    Table,
    by_detector,
    mean_numbers,
    not_transferred,
    percent,
    published,
)

METRICS = {  # the paper's columns: their titles, and ours; it does not say which side is positive in its AUPR
    "accuracy": ("Detection accuracy", "detection_accuracy"),
    "auroc": ("AUROC", "auroc"),
    "aupr": ("AUPR (anomalous positive)", "aupr_out"),
}
METHODS = ("baseline", "odin", "lid", "mahalanobis_v", "mahalanobis_p", "mahalanobis_fe", "mahalanobis_p_fe", "energy")
OURS = "mlp_all_ones"  # the paper's own method
_ORDER = (*METHODS, OURS, "mlp")
AUDIT = "image_statistics"  # a baseline that reads no network; never counted as best
NOTE = (
    "Mean ± standard deviation over seeds and checkpoints, in %; best of each column in bold; [the paper's number, on its own "
    "images]; `mlp_all_ones`, or `mlp` without it, is the paper's own method."
)
_MOST = 6  # columns of numbers in a table, so that it fits a page
_NUMBERS = {"mean": float, "spread": float, "seeds": int, "best": int, "paper": float}
CSV_COLUMNS: dict[str, type] = {"table": str, "row": str, "detector": str, **_NUMBERS}
_ATTACKS = ("fgsm", "bim", "cw", "pgd", "iterll", "semantic")  # in the order of Table 1


@dataclass(frozen=True)
class TableSettings:
    """Settings of the tables and the page.

    Args:
        same: for the paper's numbers, source name to the one of svhn, cifar10, tiny_imagenet_resize and lsun_resize that it
            stands for, where it has another name.
        near: the source whose image is the near one of Figure 1; by default the first that is no attack.
        far: the source whose image is the far one; by default the last that is no attack.
    """

    same: dict[str, str] = field(default_factory=dict)
    near: str | None = None
    far: str | None = None


def paper_number(dataset: str, network: str, source: str, method: str, metric: str) -> float | None:
    """Look up one number of the paper, a share in [0, 1]; None where it has none.

    Args:
        dataset: the classifier's, CIFAR-10 or SVHN.
        network: ResNet or DenseNet.
        source: attack (fgsm, bim, cw, pgd, iterll, semantic) or images (svhn, cifar10, and resized tiny_imagenet_resize and
            lsun_resize).
        method: one of METHODS, or `mlp_all_ones`. Its "Mahalanobis" is taken for the best variant, `mahalanobis_p_fe`.
        metric: one of METRICS; Table 1 has `auroc` only.

    Reference:
        Lee et al. 2022, Tables 1 and 2.
    """
    known = published("paper_numbers.csv", "dataset", "network", "source", "metric")
    text = known.get((dataset, network, source, metric), {}).get(method)
    return float(text) / 100 if text else None


class OverSeeds(NamedTuple):
    """One number of a table, shares in [0, 1]: mean and sample standard deviation over seeds, and the paper's number."""

    mean: float
    spread: float | None
    seeds: int
    paper: float | None


@dataclass(frozen=True)
class Row:
    """The numbers of all detectors on one source; `metrics` is detector to `test` metric to a value per seed.

    `paper` is the data set and network under which the paper's numbers are looked up; of a group, `members` are the sources
    whose mean a row holds.
    """

    model: str
    paper: tuple[str, str]
    source: str
    perturbed: bool
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    members: Sequence[str] = ()

    def add(self, run: Run) -> None:
        """Add the numbers of one run; detectors that were trained on one other source are not of the paper's protocol."""
        own = [one for one in not_transferred(run.outcomes) if one.source in (self.members or [self.source])]
        for detector, outcomes in by_detector(own).items():
            for metric, value in mean_numbers(outcomes)["test"].items():
                if not math.isnan(value):
                    self.metrics.setdefault(detector, {}).setdefault(metric, []).append(value)

    def numbers(self, kind: str, same: Mapping[str, str]) -> dict[str, OverSeeds]:
        """A metric of each detector over seeds; `same` is source to the paper's name of it."""
        ours = OURS if OURS in self.metrics else "mlp"  # a run with one label design has `mlp` alone
        found = {}
        for detector, metrics in self.metrics.items():
            if values := metrics.get(METRICS[kind][1]):
                method, source = OURS if detector == ours else detector, same.get(self.source, self.source)
                spread = statistics.stdev(values) if len(values) > 1 else None
                paper = paper_number(*self.paper, source, method, kind)
                found[detector] = OverSeeds(statistics.fmean(values), spread, len(values), paper)
        return found


Lines = list[tuple[tuple[str, ...], dict[str, OverSeeds]]]


@dataclass(frozen=True)
class PaperTable:
    """A table of lines: row heads, and detector to number."""

    name: str
    caption: str
    lines: Lines

    @property
    def blocks(self) -> dict[str, Table]:
        """Tables in % of at most six sources, by all heads of a line but the last, which is the source.

        A row for each detector: the paper's methods in its order, with its own last, then all others, the audit at the end.
        The paper's numbers stand in brackets, the best of each column in bold.
        """
        found: dict[str, list[tuple[str, dict[str, OverSeeds]]]] = {}
        for (*above, source), numbers in self.lines:
            found.setdefault(", ".join(above), []).append((source, numbers))
        return {
            f"{heading}{f' ({start // _MOST + 1})' if start else ''}": by_column(lines[start : start + _MOST])
            for heading, lines in found.items()
            for start in range(0, len(lines), _MOST)
        }

    @property
    def markdown(self) -> str:
        """Markdown tables under a caption."""
        texts = [f"{heading}\n\n{table.text('pipe')}" for heading, table in self.blocks.items()]
        return "\n\n".join([f"**{self.caption}**", *texts, NOTE]) + "\n"

    @property
    def latex(self) -> str:
        """LaTeX tables for booktabs and graphicx, no wider than a line; the paper's numbers have rows of their own."""
        found = []
        for heading, table in self.blocks.items():
            rows = list[list[str | Cell]]()
            for name, *cells in table.rows:
                rows.append([name, *(cell._replace(small="") for cell in cells if isinstance(cell, Cell))])
                published = [cell.small for cell in cells if isinstance(cell, Cell)]
                rows += [["(paper)", *published]] if any(published) else []
            caption = re.sub("([&%_#])", r"\\\1", f"{self.caption} {heading}. {NOTE}")
            text = Table(table.heads, rows).text("latex_booktabs")
            text = re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text).replace("±", r"$\pm$")
            found.append(_LATEX % (re.sub("`(.*?)`", r"\\texttt{\1}", caption).replace("±", r"$\pm$"), text))
        return "\n".join(found)


_LATEX = r"""\begin{table}
\caption{%s}
\centering\footnotesize
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%s}
\end{table}
"""


def by_column(
    lines: Sequence[tuple[str, Mapping[str, OverSeeds]]],
    order: Callable[[str], float] = lambda name: [*_ORDER, name].index(name),
) -> Table:
    """A column in % for each of the named lines, and a row for each detector, sorted, the audit last; the best in bold."""
    names = dict.fromkeys(name for _, numbers in lines for name in numbers)
    detectors = sorted(names, key=lambda name: (name == AUDIT, order(name)))
    rows: list[list[str | Cell]] = [
        [name, *(_cell(numbers.get(name), name in best_of(numbers)) for _, numbers in lines)] for name in detectors
    ]
    return Table(["detector", *(name for name, _ in lines)], rows)


def overview(rows: Sequence[Row]) -> Table:
    """Mean AUROC over the sources of each row, the best detector of all rows first."""
    lines = [(row.source, row.numbers("auroc", {})) for row in rows]
    found = {name: [numbers[name].mean for _, numbers in lines if name in numbers] for _, one in lines for name in one}
    return by_column(lines, lambda name: -statistics.fmean(found[name]))


def table_1(rows: Sequence[Row]) -> PaperTable:
    """AUROC on attacked (and corrupted) images, a row for each classifier and attack."""
    models = list(dict.fromkeys(row.model for row in rows))
    made = [row for row in rows if row.perturbed]
    made.sort(key=lambda row: (models.index(row.model), [*_ATTACKS, row.source].index(row.source)))
    lines: Lines = [((row.model, row.source), row.numbers("auroc", {})) for row in made]
    return PaperTable("table_1", "Adversarial detection, AUROC.", lines)


def table_2(rows: Sequence[Row], settings: TableSettings) -> PaperTable:
    """The oracle's accuracy, AUROC and AUPR on other images: three blocks of a row for each classifier and source."""
    lines: Lines = [
        ((heading, row.model, row.source), row.numbers(kind, settings.same))
        for kind, (heading, _) in METRICS.items()
        for row in rows
        if not row.perturbed
    ]
    return PaperTable("table_2", "Out-of-distribution detection.", lines)


def best_of(numbers: Mapping[str, OverSeeds]) -> set[str]:
    """Detectors with the highest mean as it is printed, ties included; the audit is left out."""
    means = {name: round(100 * one.mean, 2) for name, one in numbers.items() if name != AUDIT}
    return {name for name, mean in means.items() if mean == max(means.values())}


def _cell(number: OverSeeds | None, best: bool) -> Cell:
    if number is None:
        return Cell(ABSENT)
    spread = "" if number.spread is None else f" ± {percent(number.spread)}"
    paper = "" if number.paper is None else f"[{percent(number.paper)}]"
    return Cell(f"{percent(number.mean)}{spread}", paper, best)


def csv_rows(tables: Iterable[PaperTable]) -> Iterator[dict[str, Any]]:
    """A row of `CSV_COLUMNS` for each number, unrounded; shares in [0, 1]."""
    for table in tables:
        for keys, numbers in table.lines:
            for name, one in numbers.items():
                about = {"table": table.name, "row": " / ".join(keys), "detector": name, **one._asdict()}
                yield about | {"best": int(name in best_of(numbers))}
