"""Comparison of runs as text and as one HTML page: AUROC of every detector on every source, and the configurations."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gradood.report.bundle import MEAN
from lightning_gradood.report.figures import as_png
from lightning_gradood.report.finished_runs import Auroc, FinishedRun
from lightning_gradood.report.page import Cells, Grid, Picture, render
from lightning_gradood.report.plots import line_styles, new_figure, tidy
from lightning_gradood.report.provenance import accuracy_text
from lightning_gradood.report.tables import percent, text_table

_ABSENT = "-"
_FRACTION = 1e4  # AUROCs are compared as they are printed: in % with two decimals

Rows = dict[tuple[str, str], list[Auroc | None]]  # (source or `mean`, detector) to the AUROC of each run


def compared(runs: Sequence[FinishedRun]) -> Rows:
    """AUROCs of runs by source and detector, in order of first appearance, then `compared_means` as source `mean`."""
    pairs = list(dict.fromkeys(pair for run in runs for pair in run.aurocs))
    sources = list(dict.fromkeys(source for source, _ in pairs))
    rows: Rows = {
        pair: [run.aurocs.get(pair) for run in runs] for source in sources for pair in pairs if pair[0] == source
    }
    means = compared_means(runs)
    return rows | {(MEAN, detector): row for detector, (shared, row) in means.items() if len(shared) > 1}


def compared_means(runs: Sequence[FinishedRun]) -> dict[str, tuple[list[str], list[Auroc | None]]]:
    """Map each detector to the sources that all its runs share, and each run's mean AUROC on them.

    Means have no interval, as sources share their normal images; a detector whose runs share no source is left out.
    """
    pairs = list(dict.fromkeys(pair for run in runs for pair in run.aurocs))
    means: dict[str, tuple[list[str], list[Auroc | None]]] = {}
    for detector in dict.fromkeys(detector for _, detector in pairs):
        having = [run for run in runs if any(name == detector for _, name in run.aurocs)]
        tested = [source for source, name in pairs if name == detector]
        shared = [source for source in tested if all((source, detector) in run.aurocs for run in having)]
        if shared:
            means[detector] = (shared, [_mean(run, detector, shared) if run in having else None for run in runs])
    return means


def _mean(run: FinishedRun, detector: str, sources: Sequence[str]) -> Auroc:
    value = float(np.mean([run.aurocs[source, detector].value for source in sources]))
    return Auroc(value, float("nan"), float("nan"))


def comparison_text(runs: Sequence[FinishedRun]) -> str:
    """Mean AUROCs in % as plain text, with differences to the first run in brackets, and classifiers' accuracies."""
    lines = []
    for detector, (shared, aurocs) in compared_means(runs).items():
        differences = ["", *(f" ({text})" if text != _ABSENT else "" for text in _differences(aurocs))]
        values = [percent(one.value if one else None) for one in aurocs]
        lines.append([detector, str(len(shared)), *map("".join, zip(values, differences, strict=True))])
    accuracies = [percent(run.provenance.get("classifier", {}).get("accuracy")) for run in runs]
    heads = ["mean AUROC, %", "sources", *(run.name for run in runs)]
    return text_table(heads, [*lines, ["classifier's accuracy", "", *accuracies]])


def comparison_page(runs: Sequence[FinishedRun]) -> str:
    """Lay the comparison out as one self-contained HTML file."""
    rows = compared(runs)
    return render(
        "comparison.html.jinja",
        title=f"Comparison of {len(runs)} runs" if len(runs) > 1 else f"Run {runs[0].name}",
        several=len(runs) > 1,
        first=runs[0].name,
        runs=_about(runs),
        aurocs=Grid(["source", "detector", *(run.name for run in runs)], [_line(*row) for row in rows.items()]),
        differences=Grid(
            ["source", "detector", *(run.name for run in runs[1:])],
            [[*names, *found] for names, aurocs in rows.items() if set(found := _differences(aurocs)) != {_ABSENT}],
        ),
        pictures=[Picture(as_png(figure), caption) for caption, figure in auroc_figures(runs).items()],
        settings=_settings(runs),
        without=[run.name for run in runs if not run.config],
    )


def _about(runs: Sequence[FinishedRun]) -> Grid:
    about = {
        "experiment": [run.experiment for run in runs],
        "folder": [str(run.folder) for run in runs],
        "classifier": [accuracy_text(run.provenance) or _ABSENT for run in runs],
        **{
            name: [str(run.provenance.get(key) or _ABSENT) for run in runs]
            for name, key in (("weights", "checkpoint"), ("device", "device"), ("seconds", "seconds"))
        },
    }
    heads = ["", *(run.name for run in runs)]
    return Grid(heads, [[name, *texts] for name, texts in about.items()], keys=len(heads), wrap=True)


def _line(names: tuple[str, str], aurocs: Sequence[Auroc | None]) -> list[str | Cells]:
    printed = [round(_FRACTION * one.value) for one in aurocs if one]
    best = max(printed) if len(printed) > 1 else None
    return [*names, *(_cell(one, best) for one in aurocs)]


def _cell(auroc: Auroc | None, best: int | None) -> Cells:
    if auroc is None:
        return Cells(_ABSENT)
    interval = "" if np.isnan(auroc.low) else f"[{100 * auroc.low:.1f}, {100 * auroc.high:.1f}]"
    return Cells(percent(auroc.value), interval, best == round(_FRACTION * auroc.value))


def _differences(aurocs: Sequence[Auroc | None]) -> list[str]:
    """AUROC of each later run minus the first's, in percentage points."""
    first, *later = aurocs
    return [f"{100 * (one.value - first.value):+.2f}" if one and first else _ABSENT for one in later]


def _settings(runs: Sequence[FinishedRun]) -> Grid:
    known = [run for run in runs if run.config]
    keys = list(dict.fromkeys(key for run in known for key in run.config))
    texts = {key: [_text(run.config, key) for run in known] for key in keys}
    rows = [[key, *values] for key, values in texts.items() if len(set(values)) > 1]
    heads = ["key", *(run.name for run in known)]
    return Grid(heads, rows, keys=len(heads), wrap=True)


def _text(config: Mapping[str, Any], key: str) -> str:
    if key not in config:
        return "(not there)"
    value = config[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


_BAR, _GAP = 0.17, 0.3  # inches
_CHANCE = 50.0
_HATCHES = {"-": "", "--": "////", ":": "....", "-.": "xxxx"}


def auroc_figures(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Grouped bars of AUROCs by caption: for each detector, runs by source; for one run, all detectors by source."""
    rows = compared(runs)
    detectors = list(dict.fromkeys(detector for _, detector in rows))
    styles = line_styles(detectors if len(runs) == 1 else [run.name for run in runs])
    found: dict[str, dict[str, dict[str, Auroc]]] = {}
    for (source, detector), aurocs in rows.items():
        for run, auroc in zip(runs, aurocs, strict=True):
            chart, name = (run.name, detector) if len(runs) == 1 else (detector, run.name)
            if auroc is not None:
                found.setdefault(chart, {}).setdefault(name, {})[source] = auroc
    return {f"AUROC of {chart}": _bars(series, styles) for chart, series in found.items()}


def _bars(series: Mapping[str, Mapping[str, Auroc]], styles: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw a group of bars with intervals for each source, a bar per name; `series` is name to source to AUROC.

    The axis starts at chance, or at 0 where a value is lower; `styles` is name to (colour, dash).
    """
    groups = list(dict.fromkeys(source for found in series.values() for source in found))
    names = [name for name in styles if name in series]
    step, lowest = len(names) * _BAR + _GAP, 100.0
    figure = new_figure(max(step * len(groups) + 1.0, 5.5), 3.4)
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        colour, dash = styles[name]
        shown = series[name]
        places = [groups.index(source) * step + number * _BAR for source in shown]
        heights, arms = [100 * one.value for one in shown.values()], [_arms(one) for one in shown.values()]
        axes.bar(
            places, heights, _BAR, color=colour, hatch=_HATCHES[dash], edgecolor="white", linewidth=0.5, label=name
        )
        axes.errorbar(places, heights, np.array(arms).T, fmt="none", ecolor="#222222", elinewidth=0.9, capsize=1.5)
        lowest = min([lowest, *(100 * float(np.fmin(one.value, one.low)) for one in shown.values())])
    axes.set_ylim(_CHANCE if lowest >= _CHANCE else 0, 101)
    axes.set_xlim(-_GAP, max(step * len(groups), 4.5) - _BAR)
    axes.set_xticks([place * step + (len(names) - 1) * _BAR / 2 for place in range(len(groups))], groups)
    _tidy_bars(axes)
    columns = max(1, min(len(names), int(figure.get_figwidth() // 1.6)))
    figure.legend(loc="outside upper left", ncols=columns, fontsize=8, frameon=False)
    return figure


def _arms(auroc: Auroc) -> tuple[float, float]:
    """Lengths of the interval below and above, in percentage points; NaN, which is not drawn, where there is none."""
    below, above = np.clip(np.array([auroc.value - auroc.low, auroc.high - auroc.value]), 0, None)
    return 100 * float(below), 100 * float(above)


def _tidy_bars(axes: Axes) -> None:
    for label in axes.get_xticklabels():
        label.set(rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("AUROC, %", fontsize=9)
    tidy(axes)
    axes.grid(visible=False, axis="x")
