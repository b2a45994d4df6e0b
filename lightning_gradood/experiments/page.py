"""The page of a benchmark: one HTML file with tables, costs, figures and environment."""

import statistics
from collections.abc import Sequence
from typing import Any

from lightning_gradood.experiments.artifacts import RunArtifacts
from lightning_gradood.experiments.figures import figure_sections
from lightning_gradood.experiments.jobs import Call, command_line
from lightning_gradood.experiments.settings import Benchmark
from lightning_gradood.experiments.tables import AUDIT, Cell, Row, Table, best_of, title
from lightning_gradood.experiments.writing import NOTE, number, paper_text
from lightning_gradood.report import (
    ATTACK_HEADS,
    READING_HEADS,
    Cells,
    Grid,
    accuracy_text,
    accuracy_warning,
    attack_cells,
    environment,
    pairs,
    read_results,
    reading_cells,
    render,
    split_cells,
)

_METRIC = "AUROC"  # of Table 2's three, that in which methods are compared


def summary(table: Table) -> str:
    """A sentence that counts on how many rows each method is best."""
    rows = [(heads, cells) for heads, cells in table.rows if table.heads[0] != "Metric" or heads[0] == _METRIC]
    wins: dict[str, list[str]] = {}
    for heads, cells in rows:
        for detector in best_of(cells):
            wins.setdefault(detector, []).append(_place(heads, rows))
    ranked = sorted(wins.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{title(detector)} on {_counted(places, len(rows))}" for detector, places in ranked]
    return f"{table.caption.split(',')[0].rstrip('.')}, by mean AUROC, the best (ties counted for each): {'; '.join(parts)}."


def _counted(places: Sequence[str], rows: int) -> str:
    return f"all {rows}" if 1 < len(places) == rows else f"{len(places)} of {rows} ({', '.join(places)})"


def _place(heads: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], object]]) -> str:
    """The source, with its classifier where there are several."""
    *_, model, source = heads
    return source if len({other[-2] for other, _ in rows}) == 1 else f"{source} with {model}"


def page(name: str, benchmark: Benchmark, calls: Sequence[Call], rows: Sequence[Row], tables: Sequence[Table]) -> str:
    """Lay out all results as one self-contained HTML file."""
    sections = [
        section
        for experiment in benchmark.experiments
        for section in figure_sections(experiment, [call for call in calls if call.experiment == experiment], benchmark)
    ]
    return render(
        "benchmark.html.jinja",
        package="lightning_gradood.experiments",
        title=f"Benchmark {name}",
        summary=[summary(table) for table in tables],
        experiments=list(benchmark.experiments),
        seeds=benchmark.seeds,
        tables=[(_TITLES[table.name], table, _grids(table)) for table in tables],
        note=NOTE,
        audit=AUDIT,
        attacks=_attacks(rows),
        sections=sections,
        fitting=_fitting(rows),
        reading=_reading(calls),
        counts=_counts(rows),
        commands=[command_line(call) for call in calls],
        environments=_environments(calls),
    )


def _fitting(rows: Sequence[Row]) -> Grid:
    lines = []
    for detector in dict.fromkeys(detector for row in rows for detector in row.seconds):
        seconds = [value for row in rows for value in row.seconds.get(detector, [])]
        lines.append([title(detector), detector, f"{statistics.fmean(seconds):.3f}", f"{max(seconds):.3f}"])
    return Grid(["method", "name", "mean s", "most s"], lines)


def _reading(calls: Sequence[Call]) -> Grid:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for call in calls:
        for probe, cost in RunArtifacts.read(call.folder).probes.items():
            found.setdefault((call.experiment, probe), cost)
    lines = [[experiment, *reading_cells(probe, cost)] for (experiment, probe), cost in found.items()]
    return Grid(["experiment", *READING_HEADS], lines)


_TITLES = {"table_1": "Table 1: adversarial images", "table_2": "Table 2: out-of-distribution images"}


def _grids(table: Table) -> list[tuple[str, Grid]]:
    """Table 1 as one grid, Table 2 as one for each metric, each with its heading."""
    heads = [*table.heads, *map(title, table.detectors)]
    if table.heads[0] != "Metric":
        return [("", Grid(heads, [_line(keys, cells, table) for keys, cells in table.rows]))]
    parts = []
    for metric in dict.fromkeys(keys[0] for keys, _ in table.rows):
        lines = [_line(keys[1:], cells, table) for keys, cells in table.rows if keys[0] == metric]
        parts.append((metric, Grid(heads[1:], lines)))
    return parts


def _line(keys: Sequence[str], cells: dict[str, Cell | None], table: Table) -> list[str | Cells]:
    best = best_of(cells)
    numbers = [(cells[detector], detector in best) for detector in table.detectors]
    return [*keys, *(Cells(number(cell), paper_text(cell).strip(), bold) for cell, bold in numbers)]


def _attacks(rows: Sequence[Row]) -> Grid:
    lines = [[row.experiment, row.source, *attack_cells(row.made_by)] for row in rows if row.made]
    return Grid(["experiment", "source", *ATTACK_HEADS], lines)


def _counts(rows: Sequence[Row]) -> Grid:
    lines = [[row.experiment, row.source, *split_cells(row.counts)] for row in rows]
    return Grid(["experiment", "source", *(rows[0].counts if rows else [])], lines)


def _environments(calls: Sequence[Call]) -> list[tuple[str, Grid]]:
    parts = []
    for call in {call.experiment: call for call in reversed(calls)}.values():
        provenance = read_results(call.folder, "provenance")["provenance"]
        about = environment(provenance)
        if accuracy := accuracy_text(provenance):
            about["classifier"] = f"{accuracy}. {accuracy_warning(provenance)}".rstrip(". ")
        parts.append((call.experiment, pairs(about)))
    return parts
