"""The page of one run: all results of `detect` as one HTML file."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gradood.evaluation import Outcome
from lightning_gradood.report.bundle import MEAN, DetectionReport, by_detector, not_transferred
from lightning_gradood.report.guards import GuardSummary
from lightning_gradood.report.page import Cells, Grid, Picture, Section, render
from lightning_gradood.report.provenance import (
    ATTACK_HEADS,
    READING_HEADS,
    accuracy_sentence,
    accuracy_warning,
    attack_cells,
    environment,
    pairs,
    reading_cells,
    split_cells,
)
from lightning_gradood.report.tables import (
    FAILED,
    TEXT,
    ResultTable,
    flagged_table,
    matrices,
    matrix_cells,
    mean_numbers,
    result_table,
)

_KINDS = {  # first words of a figure's file name, the section it stands in, and its caption
    "roc_": ("ROC curves", "ROC of {}"),
    "precision_recall_": ("Precision and recall", "Precision and recall of {}"),
    "scores_": ("Scores", "Scores of {}; higher is more anomalous"),
    "matrix_": ("Heat maps", "AUROC of {} by source of training and of testing"),
    "layer_norms": ("Layer by layer", "Squared gradient norms of every source"),
    "activation_norms": ("Layer by layer", "Activations of feature layers of every source"),
    "first_layer": ("Layer by layer", "The first layer's weights, and their gradients for an image of each source"),
    "attacked_samples": ("Images", "Clean images beside attacked ones, the amplified difference, and both predictions"),
    "samples": ("Images", "Images of every source"),
    "extremes_": ("Most wrong", "Test images on which {} was most wrong, with their scores; higher is more anomalous"),
}
_OTHERS = ("More figures", "{}")
_SHOWN = ("versions", "device", "seconds", "checkpoint", "command", "classifier", "perturbations", "records", "probes")


def run_page(report: DetectionReport, guard: GuardSummary, figures: Mapping[str, bytes], folder: Path) -> str:
    """Lay out a run as one self-contained HTML file; `figures` are PNG by name, as in `draw_figures`."""
    outcomes, provenance = report.outcomes, report.provenance
    table = result_table(outcomes, report.failures)
    flagged_heads, flagged = flagged_table(outcomes)
    return render(
        "run_page.html.jinja",
        title=report.experiment,
        folder=folder,
        summary=[*classifier_sentences(provenance), *_best(outcomes)],
        results=_results(table),
        notes=table.notes,
        flagged=Grid(flagged_heads, flagged, keys=1),
        matrices=[(name, Grid(*matrix_cells(one), keys=1)) for name, one in matrices(outcomes).items()],
        attacks=_attacks(outcomes, provenance.get("perturbations", {})),
        guard=guard,
        guard_table=Grid(*guard.table, keys=1),
        sections=figure_sections(figures),
        fitting=_fitting(outcomes),
        reading=Grid(READING_HEADS, [reading_cells(*item) for item in provenance.get("probes", {}).items()], keys=1),
        splits=_splits(outcomes),
        command=provenance.get("command", ""),
        environment=_environment(provenance),
    )


def classifier_sentences(provenance: Mapping[str, Any]) -> list[str]:
    """The classifier's accuracy on the normal images, and a warning where it is low."""
    if "classifier" not in provenance:
        return []
    warning = accuracy_warning(provenance)
    return [accuracy_sentence(provenance), *([f"Warning: {warning}"] if warning else [])]


def _best(outcomes: list[Outcome]) -> list[str]:
    groups = by_detector(not_transferred(outcomes))
    means = {name: mean_numbers(group)["test"].get("auroc") for name, group in groups.items()}
    printed = {name: f"{100 * value:.2f}" for name, value in means.items() if value is not None}
    if not printed:
        return []
    highest = max(printed.values(), key=float)
    names = [name for name, text in printed.items() if text == highest]
    sources = len({outcome.source for outcome in outcomes})
    over = f"mean AUROC over {sources} sources" if sources > 1 else "AUROC"
    return [f"The highest {over} on the test split, {highest} %, is that of {', '.join(names)}."]


_INTERVAL = "95 % interval"  # below the AUROC on the page, where a column of its own is too wide


def _results(table: ResultTable) -> Grid:
    """Results by source, the best AUROC of each in bold; empty columns and numbers of images are left out."""
    full = [head for place, head in enumerate(table.heads) if any(row[place] != "-" for row in table.rows)]
    shown = [head for head in full if head != _INTERVAL and not head.startswith("n ")]
    rows = [dict(zip(table.heads, row, strict=True)) for row in table.rows]
    sources = list(dict.fromkeys(row["source"] for row in rows))
    groups = [[row for row in rows if row["source"] == source] for source in sources]
    means = [dict(zip(table.heads, row, strict=True)) for row in table.means]
    lines = [
        [_cell(head, row, row["AUROC"] == _highest(group)) for head in shown]
        for group in (*groups, means)
        for row in group
    ]
    return Grid(shown, lines, keys=len([head for head in shown if head in TEXT]))


def _cell(head: str, row: Mapping[str, str], best: bool) -> str | Cells:
    if head != "AUROC":
        return row[head]
    interval = row[_INTERVAL]
    return Cells(row[head], "" if row["source"] == MEAN else interval, best)


def _highest(rows: Sequence[Mapping[str, str]]) -> str | None:
    """The highest AUROC as it is printed; None for a single detector."""
    numbers = [row["AUROC"] for row in rows if row["AUROC"] not in ("-", FAILED)]
    return max(numbers, key=float) if len(rows) > 1 and numbers else None


def _attacks(outcomes: list[Outcome], perturbations: Mapping[str, Mapping[str, Any]]) -> Grid:
    """What was done to the images of tested sources; outliers used only for training are left out."""
    tested = {outcome.source for outcome in outcomes}
    rows: list[list[str | Cells]] = [
        [name, _made_by(about), *attack_cells(about)] for name, about in perturbations.items() if name in tested
    ]
    return Grid(["source", "made by", *ATTACK_HEADS], rows)


def _made_by(about: Mapping[str, Any]) -> Cells:
    settings = [f"{name}={_short(value)}" for name, value in about.get("settings", {}).items() if value is not None]
    return Cells(str(about.get("attack", "-")).rpartition(".")[2], ", ".join(settings))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figure_sections(figures: Mapping[str, bytes]) -> list[Section]:
    """Sort figures into sections by the first words of their names."""
    placed = [(*_kind(name), png) for name, png in figures.items()]
    order = list(dict.fromkeys([heading for heading, _ in _KINDS.values()]))
    placed.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return [
        Section(heading, "", [Picture(png, caption) for _, caption, png in group])
        for heading, group in itertools.groupby(placed, key=lambda item: item[0])
    ]


def _kind(name: str) -> tuple[str, str]:
    for prefix, (heading, caption) in _KINDS.items():
        if name.startswith(prefix):
            return heading, caption.format(name.removeprefix(prefix))
    return _OTHERS[0], _OTHERS[1].format(name)


def _fitting(outcomes: list[Outcome]) -> Grid:
    groups = by_detector(not_transferred(outcomes))
    rows = [
        [name, f"{sum(one.seconds for one in group):.2f}", f"{max(one.seconds for one in group):.2f}"]
        for name, group in groups.items()
    ]
    return Grid(["detector", "all sources, s", "longest, s"], rows, keys=1)


def _splits(outcomes: list[Outcome]) -> Grid:
    """Numbers of images in each split, from the first detector; one that needs no anomalies has fewer."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for outcome in not_transferred(outcomes):
        counts.setdefault(outcome.source, outcome.counts)
    heads = list(next(iter(counts.values())))
    return Grid(["source", *heads], [[source, *split_cells(one)] for source, one in counts.items()], keys=1)


def _environment(provenance: Mapping[str, Any]) -> Grid:
    about = environment(provenance)
    if "seconds" in provenance:
        about["duration"] = f"{provenance['seconds']} s, reading and detectors"
    if "checkpoint" in provenance:
        about["weights"] = str(provenance["checkpoint"] or "as the network was built")
    about |= {name: json.dumps(value, default=str) for name, value in provenance.items() if name not in _SHOWN}
    return pairs(about)
