"""Comparison of runs as text and as one HTML page: AUROC of every detector on every source, and the configurations."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_gradood.report.figures import as_png, pictures_of
from lightning_gradood.report.pages import Note, Picture, Section, accuracy_text, render, run_page
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import Auroc, auroc_bars, aurocs_of, line_styles
from lightning_gradood.report.tables import ABSENT, MEAN, Cell, Table, percent

_FRACTION = 1e4  # AUROCs are compared as they are printed: in % with two decimals

Rows = dict[tuple[str, str], list[Auroc | None]]  # (source or `mean`, detector) to the AUROC of each run


def compared(runs: Sequence[Run]) -> Rows:
    """AUROCs of runs by source and detector, in order of first appearance, then `compared_means` as source `mean`."""
    found = [aurocs_of(run.outcomes) for run in runs]
    pairs = dict.fromkeys(pair for aurocs in found for pair in aurocs)
    places = list(dict.fromkeys(source for source, _ in pairs))
    ordered = sorted(pairs, key=lambda pair: places.index(pair[0]))  # a stable sort
    means = {(MEAN, name): row for name, (shared, row) in compared_means(runs).items() if len(shared) > 1}
    return {pair: [aurocs.get(pair) for aurocs in found] for pair in ordered} | means


def compared_means(runs: Sequence[Run]) -> dict[str, tuple[list[str], list[Auroc | None]]]:
    """Map each detector to the sources that all its runs share, and each run's mean AUROC on them.

    Means have no interval, as sources share their normal images; a detector whose runs share no source is left out.
    """
    found = [aurocs_of(run.outcomes) for run in runs]
    means: dict[str, tuple[list[str], list[Auroc | None]]] = {}
    for detector in dict.fromkeys(detector for aurocs in found for _, detector in aurocs):
        of_runs = [{source: one for (source, name), one in aurocs.items() if name == detector} for aurocs in found]
        having = [aurocs for aurocs in of_runs if aurocs]
        shared = [source for source in having[0] if all(source in aurocs for aurocs in having)]
        if shared:
            values = [[aurocs[source].value for source in shared] if aurocs else None for aurocs in of_runs]
            means[detector] = (shared, [Auroc(float(np.mean(one))) if one else None for one in values])
    return means


def comparison_text(runs: Sequence[Run]) -> str:
    """Mean AUROCs in % as plain text, with differences to the first run in brackets, and classifiers' accuracies."""
    lines = []
    for detector, (shared, aurocs) in compared_means(runs).items():
        differences = ["", *(f" ({text})" if text != ABSENT else "" for text in _differences(aurocs))]
        values = [percent(one.value if one else None) for one in aurocs]
        lines.append([detector, str(len(shared)), *map("".join, zip(values, differences, strict=True))])
    accuracies = [percent(run.provenance.get("classifier", {}).get("accuracy")) for run in runs]
    heads = ["mean AUROC, %", "sources", *(run.name for run in runs)]
    return Table(heads, [*lines, ["classifier's accuracy", "", *accuracies]]).text()


def comparison_page(runs: Sequence[Run]) -> str:
    """Lay runs out as one self-contained HTML file; that of a single run is `run_page` with all its figures."""
    if len(runs) == 1:
        return run_page(runs[0], pictures_of(runs[0]))
    names, rows = [run.name for run in runs], compared(runs)
    differences = [[*pair, *found] for pair, one in rows.items() if set(found := _differences(one)) != {ABSENT}]
    bars = [Picture(as_png(figure), caption) for caption, figure in auroc_figures(runs).items()]
    return render(
        f"Comparison of {len(runs)} runs",
        [
            Section("Runs", [_about(runs)]),
            Section("AUROC", [Table(["source", "detector", *names], [_line(*row) for row in rows.items()], 2), _NOTE]),
            Section(
                f"Differences to {names[0]}",
                [
                    Table(["source", "detector", *names[1:]], differences, 2)
                    if differences
                    else "It shares no source and detector with another run.",
                    Note("In points of %; a difference well inside both intervals may be chance."),
                ],
                3,
            ),
            Section("Source by source", [*bars, _BARS_NOTE]),
            Section("Configuration", _settings(runs)),
        ],
    )


_NOTE = Note(
    "In % on the test split, with 95 % intervals; the best of each row in bold. Means are over the sources that all runs "
    "with the detector share. Results of detectors that were trained on one other source (protocol cross) are left out: a "
    "run's own page has them."
)
_BARS_NOTE = Note("Lines on the bars are 95 % intervals. Bars begin at chance, 50 %, unless one lies below it.")


def _about(runs: Sequence[Run]) -> Table:
    about = {
        "experiment": [run.experiment for run in runs],
        "folder": [str(run.folder) for run in runs],
        "classifier": [accuracy_text(run.provenance) or ABSENT for run in runs],
        **{
            name: [str(run.provenance.get(key) or ABSENT) for run in runs]
            for name, key in (("weights", "checkpoint"), ("device", "device"), ("seconds", "seconds"))
        },
    }
    heads = ["", *(run.name for run in runs)]
    return Table(heads, [[name, *texts] for name, texts in about.items()], len(heads), wrap=True)


def _line(names: tuple[str, str], aurocs: Sequence[Auroc | None]) -> list[str | Cell]:
    printed = [round(_FRACTION * one.value) for one in aurocs if one]
    best = max(printed) if len(printed) > 1 else None
    return [*names, *(_cell(one, best) for one in aurocs)]


def _cell(auroc: Auroc | None, best: int | None) -> Cell:
    if auroc is None:
        return Cell(ABSENT)
    interval = "" if np.isnan(auroc.low) else f"[{100 * auroc.low:.1f}, {100 * auroc.high:.1f}]"
    return Cell(percent(auroc.value), interval, best == round(_FRACTION * auroc.value))


def _differences(aurocs: Sequence[Auroc | None]) -> list[str]:
    """AUROC of each later run minus the first's, in percentage points."""
    first, *later = aurocs
    return [f"{100 * (one.value - first.value):+.2f}" if one and first else ABSENT for one in later]


def _settings(runs: Sequence[Run]) -> list[str | Table]:
    """The keys whose values differ between the runs whose configuration is known."""
    known = [run for run in runs if run.config]
    without = ", ".join(run.name for run in runs if not run.config)
    texts = {key: [_text(run.config, key) for run in known] for run in known for key in run.config}
    rows = [[key, *values] for key, values in texts.items() if len(set(values)) > 1]
    heads = ["key", *(run.name for run in known)]
    found: list[str | Table] = ["Keys whose values differ:", Table(heads, rows, len(heads), wrap=True)] if rows else []
    if not rows and not without:
        found.append("The configurations are the same.")
    return [*found, f"Not compared, as their folders hold no config.yaml: {without}."] if without else found


def _text(config: Mapping[str, Any], key: str) -> str:
    if key not in config:
        return "(not there)"
    value = config[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def auroc_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """Grouped bars of the AUROCs of several runs by source, a figure for each detector, by caption."""
    found: dict[str, dict[str, dict[str, Auroc]]] = {}
    for (source, detector), aurocs in compared(runs).items():
        for run, auroc in zip(runs, aurocs, strict=True):
            if auroc is not None:
                found.setdefault(detector, {}).setdefault(run.name, {})[source] = auroc
    styles = line_styles([run.name for run in runs])
    return {f"AUROC of {detector}": auroc_bars(series, styles) for detector, series in found.items()}
