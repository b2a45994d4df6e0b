"""HTML pages of one run, of several, and of a benchmark: their numbers; what they say stands in `templates/`."""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from lightning_gradood.audit import Robustness
from lightning_gradood.data import BUILT_IN
from lightning_gradood.records import NORMAL
from lightning_gradood.report.figures import draw_figures, drawings, figure_bytes, first_layer_figure
from lightning_gradood.report.paper_tables import NOTE, PaperTable, TableSettings
from lightning_gradood.report.robustness_card import card_figure, card_table
from lightning_gradood.report.run import LEADERBOARD, Run
from lightning_gradood.report.score_figures import auroc_bars, roc_curves
from lightning_gradood.report.tables import (
    ABSENT,
    DEFINITIONS,
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
)

_WEBP = 16383  # pixels
_AUDIT, _EASY = "image_statistics", 0.9  # the detector that asks for nothing but pixels, and the AUROC that is told of


def render(template: str, **values: Any) -> str:
    """Fill in a template; text is escaped, and what stands between backticks is code where the template says so."""
    loader = PackageLoader("lightning_gradood.report")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["percent"] = percent
    jinja.filters["base64"] = lambda png: base64.b64encode(png).decode()
    jinja.filters["webp"] = _webp
    jinja.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    start, *parts = re.split("<h2>(.*?)</h2>", jinja.get_template(template).render(values))
    links = " ".join(f'<a href="#{place}">{heading}</a>' for place, heading in enumerate(parts[::2]))
    bodies = [f'<h2 id="{place}">{one}</h2>{parts[2 * place + 1]}' for place, one in enumerate(parts[::2])]
    return "".join([start.replace("</h1>", f"</h1>\n<nav>{links}</nav>"), *bodies])


def _webp(png: bytes) -> str:
    """A picture in base64, at about half its size, and within WebP's largest width and height."""
    buffer, picture = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((_WEBP, _WEBP))
    picture.save(buffer, "webp", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def run_page(run: Run, pictures: Mapping[str, bytes]) -> str:
    """Lay out a run as one self-contained HTML file; `pictures` are its figures, PNG by name."""
    return render("run.html.jinja", title=run.experiment, told=_told(run, pictures))


def printed(run: Run) -> tuple[list[dict[str, str]], list[str]]:
    """A run's `printed_rows`, where no anomalies are known the guard's detector first."""
    rate = run.config.get("detection.false_positive_rate") or run.guard.false_positive_rate or 0.05
    first = run.guard.detector if all(one.source.startswith(BUILT_IN) for one in run.outcomes) else ""
    return printed_rows(run.scored, run.failures, run.groups, run.config.get(LEADERBOARD), rate, first)


def _told(run: Run, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """All that a page tells of a run, by the names that the templates use."""
    rows, notes = printed(run)
    tested = {outcome.source for outcome in run.outcomes}  # outliers used only for training are left out
    made = {name: one for name, one in run.provenance.get("perturbations", {}).items() if name in tested}
    card = Robustness.load(run.folder / "guard")
    return {
        "card": card and (card, card_table(card), figure_bytes(card_figure(card))),
        "run": run,
        "findings": findings(run),
        "results": _results(rows),
        "notes": [*notes, *DEFINITIONS],
        "matrices": matrices(run.outcomes),
        "perturbations": made,
        "pictures": pictures,
        "detectors": by_detector(not_transferred(run.outcomes)),
    }


def findings(run: Run) -> list[str]:
    """What should be known before the table is read: the classifier's accuracy, other files, sources that are easy."""
    made = run.provenance.get("perturbations", {})
    easy = [
        f"`{one.source}` {percent(one.metrics['test']['auroc'])}"
        for one in run.outcomes
        if one.detector == _AUDIT and one.source not in made and one.metrics["test"]["auroc"] >= _EASY
    ]
    audit = (
        f"Easy for reasons other than content: image statistics alone (brightness, contrast, sharpness, JPEG's blocks) have an "
        f"AUROC of {', '.join(easy)} %. Images that were enlarged or compressed otherwise are so; other detectors' numbers "
        "there say little."
    )
    remarks = run.provenance.get("remarks", {}).values()
    return [
        *classifier_sentences(run.provenance),
        *run.provenance.get("files", []),
        *([audit] if easy else []),
        *remarks,
    ]


def classifier_sentences(about: Mapping[str, Any]) -> list[str]:
    """The classifier's accuracy on the normal images, and a warning where it is low."""
    found = about.get("classifier", {})
    if "accuracy" not in found:
        return ["The classifier's accuracy is unknown, as the normal images have no labels."] if found else []
    accuracy = f"The classifier is {percent(found['accuracy'])} % accurate on {found['images']} normal images."
    warning = accuracy_warning(about)
    return [accuracy, f"Warning: {warning}"] if warning else [accuracy]


def accuracy_warning(about: Mapping[str, Any]) -> str:
    """Warn of a classifier below 3 × chance or, with few classes, half way from chance to 1; empty if it is better."""
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
    """The printed table by source, the best AUROC of each in bold."""
    heads, lines = list(rows[0]), []
    for source in dict.fromkeys(row["source"] for row in rows if row["source"] != MEAN) | {MEAN: None}:
        group = [row for row in rows if row["source"] == source]
        numbers = [row["AUROC"] for row in group if row["AUROC"] not in (ABSENT, FAILED)]
        best = max(numbers, key=float) if len(numbers) > 1 else None
        lines += [[Cell(row[head], best=head == "AUROC" and row[head] == best) for head in heads] for row in group]
    return Table(heads, lines, len([head for head in heads if head in TEXT]))


def _cells(aurocs: Sequence[Auroc | None]) -> list[Cell]:
    """Each AUROC in %, with its interval and its difference to the first; the best as it is printed is marked."""
    first, cells = aurocs[0], []
    numbers = [percent(one.value) for one in aurocs if one]
    best = max(numbers, key=float) if len(numbers) > 1 else ""
    for one in aurocs:
        interval = "" if one is None or np.isnan(one.low) else brackets(one.low, one.high)
        difference = f"({100 * (one.value - first.value):+.2f})" if one and first and one is not first else ""
        number = percent(one and one.value)
        cells.append(Cell(number, f"{interval} {difference}".strip(), number == best))
    return cells


def comparison_text(runs: Sequence[Run]) -> str:
    """Mean AUROCs in % as plain text, with differences to the first run in brackets, and classifiers' accuracies."""
    rows = compared([run.outcomes for run in runs])  # means alone are told
    means = {name: _cells(aurocs) for (source, name), aurocs in rows.items() if source == MEAN}
    lines = [[name, *(f"{cell.text} {cell.small}".rstrip() for cell in cells)] for name, cells in means.items()]
    accuracies = [percent(run.provenance.get("classifier", {}).get("accuracy")) for run in runs]
    heads = ["mean AUROC, %", *(run.name for run in runs)]
    return Table(heads, [*lines, ["classifier's accuracy", *accuracies]]).text()


def comparison_page(runs: Sequence[Run]) -> str:
    """Lay runs out as one self-contained HTML file; that of a single run is `run_page` with all its figures."""
    if len(runs) == 1:
        return run_page(runs[0], draw_figures(drawings(runs[0])))
    names, rows, bars = (
        [run.name for run in runs],
        compared([run.outcomes for run in runs], _groups(runs)),
        dict[str, Any](),
    )
    for detector in dict.fromkeys(detector for _, detector in rows):
        own = [(source, aurocs) for (source, name), aurocs in rows.items() if name == detector]
        pairs = [((source, name), one) for source, aurocs in own for name, one in zip(names, aurocs, strict=True)]
        bars[detector] = partial(auroc_bars, {pair: one for pair, one in pairs if one})
    known = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in known for key in run.config)
    settings = [[key, *(json.dumps(run.config.get(key), default=str) for run in known)] for key in keys]
    different = [line for line in settings if len(set(line[1:])) > 1]
    return render(
        "comparison.html.jinja",
        title=f"Comparison of {len(runs)} runs",
        runs=runs,
        aurocs=Table(["source", "detector", *names], [[*pair, *_cells(found)] for pair, found in rows.items()], 2),
        bars=draw_figures(bars),
        settings=Table(["key", *(run.name for run in known)], different, len(known) + 1),
    )


def _groups(runs: Sequence[Run]) -> dict[str, Sequence[str]]:
    """The groups that all runs have alike."""
    return {name: one for name, one in runs[0].groups.items() if all(run.groups.get(name) == one for run in runs)}


_SHOWN = ("aurocs", "layer_norms", "activation_norms", "samples", "attacked_samples")


def benchmark_page(
    name: str,
    seeds: Sequence[int],
    runs: Mapping[str, Run],
    means: Table,
    tables: Sequence[PaperTable],
    settings: TableSettings,
) -> str:
    """Lay out all results as one self-contained HTML file; `runs` are those of the first seed, by experiment.

    A ROC of all methods on each source stands in place of the figures of each method, which are on the run's own page.
    """
    told = {}
    for experiment, run in runs.items():
        figures = {name: draw for name, draw in drawings(run).items() if name.startswith(_SHOWN)}
        scored = not_transferred(run.scored)
        for source in dict.fromkeys(one.source for one in scored):
            methods = {one.detector: one for one in scored if one.source == source}
            figures[f"roc_{source}"] = partial(roc_curves, f"ROC on {source}", methods)
        if stored := run.arrays.get("first_layer"):
            others = [source for source in stored["images"] if source != NORMAL]
            asked = {"near": settings.near or "".join(others[:1]), "far": settings.far or "".join(others[-1:])}
            chosen = {f"{role}: {source}": source for role, source in asked.items() if source in others}
            figures["first_layer"] = partial(first_layer_figure, stored, {NORMAL: NORMAL} | chosen)
        told[experiment] = _told(run, draw_figures(figures))
    heading = f"Benchmark {name}"
    return render(
        "benchmark.html.jinja", title=heading, seeds=seeds, means=means, tables=tables, told=told, legend=NOTE
    )
