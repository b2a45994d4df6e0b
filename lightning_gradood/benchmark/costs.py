"""What each method costs: time to fit and score, and what reading the network for it takes."""

import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from lightning_gradood.benchmark.cells import Row
from lightning_gradood.benchmark.commands import Call
from lightning_gradood.benchmark.html import grid, heading, paragraph
from lightning_gradood.benchmark.material import Material
from lightning_gradood.benchmark.tables import title

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
