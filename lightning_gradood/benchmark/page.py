"""The page of a benchmark: one HTML file that needs nothing else."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from lightning_gradood.benchmark.cells import Cell, Row
from lightning_gradood.benchmark.commands import Call
from lightning_gradood.benchmark.costs import costs
from lightning_gradood.benchmark.drawn import drawn
from lightning_gradood.benchmark.html import document, grid, heading, paragraph, verbatim
from lightning_gradood.benchmark.runner import RESULTS, command_line
from lightning_gradood.benchmark.settings import Benchmark
from lightning_gradood.benchmark.summary import summary
from lightning_gradood.benchmark.surroundings import surroundings
from lightning_gradood.benchmark.tables import AUDIT, Table, best_of, title
from lightning_gradood.benchmark.writing import NOTE, number, paper_text

_TITLES = {"table_1": "Table 1: adversarial images", "table_2": "Table 2: out-of-distribution images"}
_AUDIT = (
    "Image statistics never ask the network. A source on which they do well is easy for a reason other than what its "
    "images show; they are an audit and are never counted as best."
)


def page(name: str, benchmark: Benchmark, calls: Sequence[Call], rows: Sequence[Row], tables: Sequence[Table]) -> str:
    """Lay out everything that was found.

    Args:
        name: of the benchmark.
        benchmark: its settings.
        calls: finished.
        rows: their numbers over seeds.
        tables: made of the rows.
    """
    seeds = ", ".join(map(str, benchmark.seeds))
    parts = [heading(f"Benchmark {name}", 1), *map(paragraph, summary(tables))]
    parts += [paragraph(f"Experiments: {', '.join(benchmark.experiments)}. Seeds: {seeds}.", "note")]
    for table in tables:
        parts += [heading(_TITLES[table.name]), paragraph(f"{table.caption} {NOTE}", "note"), *_grids(table)]
        parts += [paragraph(_AUDIT, "note")] * (AUDIT in table.detectors)
    parts += [heading("What attacks did"), _attacks(rows)]
    for experiment in benchmark.experiments:
        parts += drawn(experiment, [call for call in calls if call.experiment == experiment], benchmark)
    parts += [heading("Time and memory"), *costs(calls, rows)]
    parts += [heading("Images in each split"), _counts(rows)]
    parts += [heading("Commands"), *(verbatim(command_line(call)) for call in calls)]
    parts += [heading("Environment"), *_environments(calls)]
    return document(f"Benchmark {name}", parts)


def _grids(table: Table) -> list[str]:
    """Table 1 as it is, Table 2 in a part for each metric."""
    heads = [*table.heads, *map(title, table.detectors)]
    if table.heads[0] != "Metric":
        return [grid(heads, [[*map(escape, keys), *_cells(cells, table)] for keys, cells in table.rows], 2)]
    parts = []
    for metric in dict.fromkeys(keys[0] for keys, _ in table.rows):
        lines = [[*map(escape, keys[1:]), *_cells(cells, table)] for keys, cells in table.rows if keys[0] == metric]
        parts += [heading(metric, 3), grid(heads[1:], lines, 2)]
    return parts


def _cells(cells: dict[str, Cell | None], table: Table) -> list[str]:
    best = best_of(cells)
    texts = []
    for detector in table.detectors:
        ours, theirs = number(cells[detector]), paper_text(cells[detector]).strip()
        ours = f"<strong>{ours}</strong>" if detector in best else ours
        texts.append(ours + (f"<small>{theirs}</small>" if theirs else ""))
    return texts


def _attacks(rows: Sequence[Row]) -> str:
    made = [row for row in rows if row.made]
    if not made:
        return paragraph("No image was attacked or corrupted.")
    lines = [[escape(row.experiment), escape(row.source), *_attack(row.made_by)] for row in made]
    heads = ["experiment", "source", "images", "success, %", "mean L2", "mean L∞"]
    return grid(heads, lines, 2) + paragraph("Success: the classifier no longer gives the image its class.", "note")


def _attack(numbers: dict[str, Any]) -> list[str]:
    success = numbers.get("attack_success")
    norms = [numbers.get(name) for name in ("attack_l2", "attack_linf")]
    rest = ["-" if value is None else f"{value:.3f}" for value in norms]
    return [str(numbers["images"]), "-" if success is None else f"{100 * success:.2f}", *rest]


def _counts(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        counts = [f"{part['normal']}+{part['anomalous']}" for part in row.counts.values()]
        lines.append([escape(row.experiment), escape(row.source), *counts])
    note = paragraph("Normal + anomalous, with the first seed.", "note")
    return grid(["experiment", "source", *rows[0].counts], lines, 2) + note if rows else ""


def _environments(calls: Sequence[Call]) -> list[str]:
    parts = []
    for call in {call.experiment: call for call in reversed(calls)}.values():
        provenance = json.loads((call.folder / RESULTS).read_text())["provenance"]
        about = surroundings(provenance)
        accuracy = provenance["classifier"].get("accuracy")
        if accuracy is not None:
            about["classifier"] = (
                f"{100 * accuracy:.2f} % accurate on {provenance['classifier']['images']} normal images"
            )
        lines = [[escape(key), escape(value)] for key, value in about.items()]
        parts += [heading(call.experiment, 3), grid(["", ""], lines, 2)]
    return parts
