"""HTML pages of one run, of several, and of a benchmark: one file without scripts, styles and pictures embedded.

What a page says and how it looks stands in `templates/`; here are the numbers that it is given.
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lightning_gradood.records import NORMAL, SPLITS
from lightning_gradood.report.figures import as_png, draw_figures, drawings
from lightning_gradood.report.image_figures import first_layer_figure
from lightning_gradood.report.paper_tables import NOTE, PaperTable, TableSettings, paper_title
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import Auroc, auroc_bars, aurocs_of, roc_curves
from lightning_gradood.report.tables import (
    ABSENT,
    FAILED,
    MEAN,
    TEXT,
    Cell,
    ResultTable,
    Table,
    brackets,
    by_detector,
    counted,
    matrices,
    not_transferred,
    percent,
    result_table,
    title,
)


def render(template: str, **values: Any) -> str:
    """Fill in a template; text is escaped, and what stands between backticks is code where the template says so."""
    loader = PackageLoader("lightning_gradood.report")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["base64"] = lambda png: base64.b64encode(png).decode()
    jinja.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    return jinja.get_template(template).render(values)


_KINDS = {  # first words of a figure's file name, the section it stands in, and its caption
    "aurocs": ("Source by source", "AUROC of every detector on every source; lines on the bars are 95 % intervals"),
    "roc_": ("ROC curves", "ROC: {}"),
    "precision_recall_": ("Precision and recall", "Precision and recall of {}"),
    "scores_": ("Scores", "Scores of {}; higher is more anomalous"),
    "matrix_": ("Heat maps", "AUROC of {} by source of training and of testing"),
    "layer_norms": ("Layer by layer", "Squared gradient norms of every source"),
    "activation_norms": ("Layer by layer", "Activations of feature layers of every source"),
    "first_layer": ("Layer by layer", "The first layer's weights, and their gradients for one image each"),
    "attacked_samples": ("Images", "Clean images beside attacked ones, both predictions, and the amplified difference"),
    "samples": ("Images", "Images of every source"),
    "extremes_": ("Most wrong", "Test images on which {} was most wrong, with their scores; higher is more anomalous"),
}


def gallery(pictures: Mapping[str, bytes]) -> dict[str, list[tuple[bytes, str]]]:
    """Sort figures, PNG by name, into sections by the first words of their names, each with its caption."""
    sections: dict[str, list[tuple[bytes, str]]] = {}
    for start, (heading, caption) in _KINDS.items():
        for name, png in pictures.items():
            if name.startswith(start):
                sections.setdefault(heading, []).append((png, caption.format(name.removeprefix(start))))
    return sections


def run_page(run: Run, pictures: Mapping[str, bytes]) -> str:
    """Lay out a run as one self-contained HTML file; `pictures` are its figures, PNG by name."""
    return render("run.html.jinja", title=run.experiment, told=_told(run, pictures))


def _told(run: Run, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """All that a page tells of a run, by the names that the templates use."""
    found, detectors = result_table(run.outcomes, run.failures), by_detector(not_transferred(run.outcomes))
    seconds = {name: [one.seconds for one in group] for name, group in detectors.items()}
    reading = [
        [name, f"{cost['milliseconds']:.2f}", f"{cost['mebibytes']:.1f}" if "mebibytes" in cost else ABSENT]
        for name, cost in run.provenance.get("probes", {}).items()
    ]
    splits = {one.source: one.counts for group in reversed(detectors.values()) for one in group}
    return {
        "run": run,
        "classifier": classifier_sentences(run.provenance),
        "results": _results(found),
        "notes": found.notes,
        "matrices": matrices(run.outcomes),
        "attacks": _attacks(run),
        "gallery": gallery(pictures),
        "seconds": Table(
            ["seconds to fit and score", "all sources", "longest"],
            [[name, f"{sum(one):.2f}", f"{max(one):.2f}"] for name, one in seconds.items()],
        ),
        "reading": Table(["probe", "ms an image", "MiB an image"], reading),
        "splits": Table(
            ["source", *SPLITS],
            [[name, *(counted(one.get(split)) for split in SPLITS)] for name, one in splits.items()],
        ),
    }


def classifier_sentences(about: Mapping[str, Any]) -> list[str]:
    """The classifier's accuracy on the normal images, and a warning where it is low."""
    found = about.get("classifier", {})
    if "accuracy" not in found:
        return ["The classifier's accuracy is unknown, as the normal images have no labels."] if found else []
    accuracy = f"The classifier is {percent(found['accuracy'])} % accurate on {found['images']} normal images."
    warning = accuracy_warning(about)
    return [accuracy, f"Warning: {warning}"] if warning else [accuracy]


def accuracy_warning(about: Mapping[str, Any]) -> str:
    """Warn of a classifier hardly better than chance: below 3 × chance or, with few classes, half way from chance to 1.

    Empty where it is better, or where its accuracy is not known.
    """
    found = about.get("classifier", {})
    chance = 1 / (found.get("classes") or math.inf)
    low = min(3 * chance, (1 + chance) / 2)
    if found.get("accuracy", 1.0) >= low:
        return ""
    return (
        f"{100 * found['accuracy']:.1f} % of the normal images are classified correctly, less than {100 * low:.1f} %, which is "
        "hardly better than chance: the order of the classes is the first suspect. Name the network's outputs in their order "
        "with --data.classes; until then numbers about attacks and detection say little."
    )


def _results(found: ResultTable) -> Table:
    """Results by source, the best AUROC of each in bold; empty columns and numbers of images are left out."""
    heads = [head for head in found.heads if head[:2] != "n " and any(row[head] != ABSENT for row in found.rows)]
    every, lines = [*found.rows, *found.means], []
    for source in dict.fromkeys(row["source"] for row in every):
        group = [row for row in every if row["source"] == source]
        numbers = [row["AUROC"] for row in group if row["AUROC"] not in (ABSENT, FAILED)]
        best = max(numbers, key=float) if len(numbers) > 1 else None
        lines += [[Cell(row[head], best=head == "AUROC" and row[head] == best) for head in heads] for row in group]
    return Table(heads, lines, len([head for head in heads if head in TEXT]))


def _attacks(run: Run) -> Table:
    """What was done to the images of tested sources; outliers used only for training are left out."""
    rows, tested = list[list[str | Cell]](), {outcome.source for outcome in run.outcomes}
    for name, about in run.provenance.get("perturbations", {}).items():
        if name in tested:
            settings = ", ".join(f"{key}={value}" for key, value in about["init_args"].items() if value is not None)
            norms = [about.get(norm) for norm in ("attack_l2", "attack_linf")]
            shown = [ABSENT if norm is None else f"{norm:.3f}" for norm in norms]
            made_by = Cell(about["class_path"].rpartition(".")[2], settings)
            rows.append([name, made_by, str(about["images"]), percent(about.get("attack_success")), *shown])
    return Table(["source", "made by", "images", "success, %", "mean L2", "mean L∞"], rows, words=2)


Rows = dict[tuple[str, str], list[Auroc | None]]  # (source or `mean`, detector) to the AUROC of each run


def compared(runs: Sequence[Run]) -> Rows:
    """AUROCs of runs by source and detector, in order of first appearance, then means as source `mean`.

    Means are over the sources that all runs with the detector share, and have no interval, as sources share their normal
    images.
    """
    found = [aurocs_of(run.outcomes) for run in runs]
    pairs = dict.fromkeys(pair for aurocs in found for pair in aurocs)
    sources, detectors = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    ordered = [(source, name) for source in sources for name in detectors if (source, name) in pairs]
    rows: Rows = {pair: [aurocs.get(pair) for aurocs in found] for pair in ordered}
    for name in detectors:
        having = [aurocs for aurocs in found if any(detector == name for _, detector in aurocs)]
        shared = [source for source in sources if all((source, name) in aurocs for aurocs in having)]
        values = [[aurocs[source, name].value for source in shared] if aurocs in having else [] for aurocs in found]
        if shared:
            rows[MEAN, name] = [Auroc(float(np.mean(one))) if one else None for one in values]
    return rows


def _cells(aurocs: Sequence[Auroc | None]) -> list[Cell]:
    """Each AUROC in %, with its interval and its difference to the first; the best as it is printed is marked."""
    first, numbers = aurocs[0], [percent(one and one.value) for one in aurocs]
    best = max(numbers, key=lambda text: float(text.replace(ABSENT, "-1")))
    cells = []
    for one, number in zip(aurocs, numbers, strict=True):
        interval = "" if one is None or np.isnan(one.low) else brackets(one.low, one.high)
        difference = f"({100 * (one.value - first.value):+.2f})" if one and first and one is not first else ""
        several = len(set(numbers) - {ABSENT}) > 1
        cells.append(Cell(number, f"{interval} {difference}".strip(), several and number == best))
    return cells


def comparison_text(runs: Sequence[Run]) -> str:
    """Mean AUROCs in % as plain text, with differences to the first run in brackets, and classifiers' accuracies."""
    means = {name: _cells(aurocs) for (source, name), aurocs in compared(runs).items() if source == MEAN}
    lines = [[name, *(f"{cell.text} {cell.small}".rstrip() for cell in cells)] for name, cells in means.items()]
    heads = ["mean AUROC, %", *(run.name for run in runs)]
    return Table(heads, [*lines, ["classifier's accuracy", *map(_accuracy, runs)]]).text()


def _accuracy(run: Run) -> str:
    return percent(run.provenance.get("classifier", {}).get("accuracy"))


def comparison_page(runs: Sequence[Run]) -> str:
    """Lay runs out as one self-contained HTML file; that of a single run is `run_page` with all its figures."""
    if len(runs) == 1:
        return run_page(runs[0], draw_figures(runs[0]))
    names, rows = [run.name for run in runs], compared(runs)
    about = [["experiment", *(run.experiment for run in runs)], ["folder", *(str(run.folder) for run in runs)]]
    about += [["classifier's accuracy, %", *map(_accuracy, runs)]]
    about += [[key, *(str(run.provenance.get(key)) for run in runs)] for key in ("checkpoint", "device", "seconds")]
    known = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in known for key in run.config)
    texts = [[key, *(json.dumps(run.config.get(key), default=str) for run in known)] for key in keys]
    settings = [line for line in texts if len(set(line[1:])) > 1]
    return render(
        "comparison.html.jinja",
        title=f"Comparison of {len(runs)} runs",
        about=Table(["", *names], about, len(names) + 1),
        aurocs=Table(["source", "detector", *names], [[*pair, *_cells(found)] for pair, found in rows.items()], 2),
        bars={name: as_png(auroc_bars(series)) for name, series in bars_of(runs).items()},
        settings=Table(["key", *(run.name for run in known)], settings, len(known) + 1),
    )


def bars_of(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, Auroc]]]:
    """AUROCs of several runs by detector, run and source."""
    found: dict[str, dict[str, dict[str, Auroc]]] = {}
    for (source, detector), aurocs in compared(runs).items():
        for run, auroc in zip(runs, aurocs, strict=True):
            if auroc is not None:
                found.setdefault(detector, {}).setdefault(run.name, {})[source] = auroc
    return found


_SHOWN = ("aurocs", "layer_norms", "activation_norms", "samples", "attacked_samples", "extremes_")


def benchmark_page(
    name: str,
    seeds: Sequence[int],
    runs: Mapping[str, Run],
    tables: Sequence[PaperTable],
    settings: TableSettings,
    commands: Sequence[str],
) -> str:
    """Lay out all results as one self-contained HTML file; `runs` are those of the first seed, by experiment.

    A ROC of all methods on each source stands in place of the figures of each method.
    """
    told = {}
    for experiment, run in runs.items():
        figures = {name: draw() for name, draw in drawings(run).items() if name.startswith(_SHOWN)}
        scored = not_transferred(run.scored)
        for source in dict.fromkeys(one.source for one in scored):
            methods = {paper_title(one.detector): one for one in scored if one.source == source}
            figures[f"roc_{title(source)}"] = roc_curves(f"ROC on {title(source)}", methods)
        if stored := run.arrays.get("first_layer"):
            others = [source for source in stored["images"] if source != NORMAL]
            asked = {"near": settings.near or "".join(others[:1]), "far": settings.far or "".join(others[-1:])}
            chosen = {f"{role}: {title(source)}": source for role, source in asked.items() if source in others}
            figures["first_layer"] = first_layer_figure(stored, {NORMAL: NORMAL} | chosen)
        told[experiment] = _told(run, {name: as_png(figure) for name, figure in figures.items()})
    values = {"seeds": seeds, "tables": tables, "told": told, "commands": commands, "legend": NOTE}
    return render("benchmark.html.jinja", title=f"Benchmark {name}", **values)
