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

from lightning_gradood.records import NORMAL
from lightning_gradood.report.figures import as_png, draw_figures, drawings
from lightning_gradood.report.image_figures import first_layer_figure
from lightning_gradood.report.paper_tables import NOTE, PaperTable, TableSettings, paper_title
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import auroc_bars, roc_curves
from lightning_gradood.report.tables import (
    ABSENT,
    FAILED,
    MEAN,
    TEXT,
    Auroc,
    Cell,
    Table,
    brackets,
    by_detector,
    compared,
    matrices,
    not_transferred,
    percent,
    printed_rows,
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
    rows, notes = printed_rows(run.outcomes, run.failures)
    groups = by_detector(not_transferred(run.outcomes)).items()
    seconds = [[name, f"{sum(one.seconds for one in group):.2f}"] for name, group in groups]
    reading = [
        [name, f"{cost['milliseconds']:.2f}", f"{cost['mebibytes']:.1f}" if "mebibytes" in cost else ABSENT]
        for name, cost in run.provenance.get("probes", {}).items()
    ]
    return {
        "run": run,
        "classifier": classifier_sentences(run.provenance),
        "results": _results(rows),
        "notes": notes,
        "matrices": matrices(run.outcomes),
        "attacks": _attacks(run),
        "gallery": gallery(pictures),
        "seconds": Table(["detector", "seconds to fit and score"], seconds),
        "reading": Table(["probe", "ms an image", "MiB an image"], reading),
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


def _results(rows: Sequence[Mapping[str, str]]) -> Table:
    """The printed table by source, the best AUROC of each in bold; empty columns are left out."""
    heads, lines = [head for head in rows[0] if any(row[head] != ABSENT for row in rows)], []
    for source in dict.fromkeys(row["source"] for row in rows if row["source"] != MEAN) | {MEAN: None}:
        group = [row for row in rows if row["source"] == source]
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
    lines = [["classifier's accuracy", *map(_accuracy, runs)]]
    for (source, name), aurocs in compared([run.outcomes for run in runs]).items():
        if source == MEAN:
            lines.insert(-1, [name, *(f"{cell.text} {cell.small}".rstrip() for cell in _cells(aurocs))])
    return Table(["mean AUROC, %", *(run.name for run in runs)], lines).text()


def _accuracy(run: Run) -> str:
    return percent(run.provenance.get("classifier", {}).get("accuracy"))


def comparison_page(runs: Sequence[Run]) -> str:
    """Lay runs out as one self-contained HTML file; that of a single run is `run_page` with all its figures."""
    if len(runs) == 1:
        return run_page(runs[0], draw_figures(runs[0]))
    names, rows, bars = [run.name for run in runs], compared([run.outcomes for run in runs]), {}
    for detector in dict.fromkeys(detector for _, detector in rows):
        own = {
            source: dict(zip(names, aurocs, strict=True)) for (source, name), aurocs in rows.items() if name == detector
        }
        found = {(source, name): one for source, of_runs in own.items() for name, one in of_runs.items() if one}
        bars[detector] = as_png(auroc_bars(found))
    about = [["experiment", *(run.experiment for run in runs)], ["folder", *(str(run.folder) for run in runs)]]
    about += [["classifier's accuracy, %", *map(_accuracy, runs)]]
    about += [[key, *(str(run.provenance.get(key)) for run in runs)] for key in ("checkpoint", "device", "seconds")]
    known = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in known for key in run.config)
    texts = [[key, *(json.dumps(run.config.get(key), default=str) for run in known)] for key in keys]
    return render(
        "comparison.html.jinja",
        title=f"Comparison of {len(runs)} runs",
        about=Table(["", *names], about, len(names) + 1),
        aurocs=Table(["source", "detector", *names], [[*pair, *_cells(found)] for pair, found in rows.items()], 2),
        bars=bars,
        settings=Table(
            ["key", *(run.name for run in known)], [line for line in texts if len(set(line[1:])) > 1], len(known) + 1
        ),
    )


_SHOWN = ("aurocs", "layer_norms", "activation_norms", "samples", "attacked_samples", "extremes_")


def benchmark_page(
    name: str,
    seeds: Sequence[int],
    runs: Mapping[str, Run],
    tables: Sequence[PaperTable],
    settings: TableSettings,
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
    values = {"seeds": seeds, "tables": tables, "told": told, "legend": NOTE}
    return render("benchmark.html.jinja", title=f"Benchmark {name}", **values)
