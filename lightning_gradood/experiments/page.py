"""The page of a benchmark: one HTML file with tables, costs, figures and environment."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import lightning_gradood
from lightning_gradood.experiments.artifacts import Material
from lightning_gradood.experiments.figures import document, drawn, grid, heading, paragraph, verbatim
from lightning_gradood.experiments.jobs import RESULTS, Call, command_line
from lightning_gradood.experiments.settings import Benchmark
from lightning_gradood.experiments.tables import AUDIT, Cell, Row, Table, best_of, title
from lightning_gradood.experiments.writing import NOTE, number, paper_text

_METRIC = "AUROC"  # of Table 2's three, that in which methods are compared


def summary(tables: Sequence[Table]) -> list[str]:
    """One sentence for each table.

    Args:
        tables: as `table_1` and `table_2` make them.
    """
    return [_sentence(table) for table in tables]


def _sentence(table: Table) -> str:
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


def surroundings(provenance: dict[str, Any]) -> dict[str, str]:
    """Describe what the runs ran on.

    Args:
        provenance: of one run's results.
    """
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    return {
        "versions": versions,
        "device": provenance["device"],
        "this machine": system,
        "commit": commit(Path(lightning_gradood.__file__).parent),
    }


def commit(package: Path) -> str:
    """The commit of the package's files; says so where they differ from it or are not under version control."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # or it lies inside someone else's repository
        name = _git(package, "rev-parse", "HEAD")
        return f"{name}, with changes" if _git(package, "status", "--porcelain", "--", ".") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown, the package is not under version control"


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


_NOTE = (
    "Each probe alone, on one batch of at most 16 normal images, where a run read it rather than found its records; methods "
    "that share a pass cost less together. Memory is what tensors hold at their peak, beyond the network and the images."
)


def costs(calls: Sequence[Call], rows: Sequence[Row]) -> list[str]:
    """Tables of both kinds of cost.

    Args:
        calls: finished.
        rows: their numbers.
    """
    detectors = list(dict.fromkeys(detector for row in rows for detector in row.seconds))
    lines = []
    for detector in detectors:
        seconds = [value for row in rows for value in row.seconds.get(detector, [])]
        numbers = (statistics.fmean(seconds), max(seconds))
        lines.append([escape(title(detector)), escape(detector), *(f"{value:.3f}" for value in numbers)])
    fitted = grid(["method", "name", "mean s", "most s"], lines, 2)
    return [
        paragraph("Seconds to fit and score, for each source and seed."),
        fitted,
        heading("Reading the network", 3),
        _probes(calls),
    ]


def _probes(calls: Sequence[Call]) -> str:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for call in calls:
        for probe, cost in Material.read(call.folder).probes.items():
            found.setdefault((call.experiment, probe), cost)
    if not found:
        return paragraph("No run had to read the network: all records were found.")
    lines = []
    for (experiment, probe), cost in found.items():
        memory = f"{cost['mebibytes']:.1f}" if "mebibytes" in cost else "-"
        lines.append([escape(experiment), escape(probe), f"{cost['milliseconds']:.2f}", memory])
    return grid(["experiment", "probe", "ms an image", "MiB an image"], lines, 2) + paragraph(_NOTE, "note")


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
