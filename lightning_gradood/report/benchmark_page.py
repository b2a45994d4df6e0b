"""The page of a benchmark: the paper's tables, and of each experiment what its first run has found."""

from collections.abc import Mapping, Sequence

from lightning_gradood.records import NORMAL
from lightning_gradood.report.figures import as_png, drawings
from lightning_gradood.report.names import source_title
from lightning_gradood.report.network_figures import first_layer_figure
from lightning_gradood.report.pages import (
    Code,
    Note,
    Part,
    Picture,
    Section,
    classifier_sentences,
    render,
    run_sections,
)
from lightning_gradood.report.paper_tables import AUDIT, NOTE, PaperTable, TableSettings, grids, summary, title
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import roc_curves
from lightning_gradood.report.tables import not_transferred

_TITLES = {"table_1": "Table 1: adversarial images", "table_2": "Table 2: out-of-distribution images"}
_SHOWN = ("aurocs", "layer_norms", "activation_norms", "samples", "attacked_samples", "extremes_")
_AUDIT_NOTE = Note(
    "Image statistics never ask the network. A source on which they do well is easy for a reason other than what its images "
    "show; they are an audit and are never counted as best."
)


def benchmark_page(
    name: str,
    seeds: Sequence[int],
    runs: Mapping[str, Run],
    tables: Sequence[PaperTable],
    settings: TableSettings,
    commands: Sequence[str],
) -> str:
    """Lay out all results as one self-contained HTML file; `runs` are those of the first seed, by experiment."""
    about = (
        f"Experiments: {', '.join(runs)}. Seeds: {', '.join(map(str, seeds))}. Below the tables: the first seed's runs."
    )
    return render(
        f"Benchmark {name}",
        [
            Section("", [*map(summary, tables), Note(about)]),
            *(section for table in tables for section in _table_sections(table)),
            *(section for experiment, run in runs.items() for section in _of_run(experiment, run, settings)),
            Section("Commands", [Code(command) for command in commands]),
        ],
    )


def _table_sections(table: PaperTable) -> list[Section]:
    notes = [_AUDIT_NOTE] if AUDIT in table.detectors else []
    start, parts = Section(_TITLES[table.name], [Note(f"{table.caption} {NOTE}")]), grids(table)
    return [start, *(Section(metric, [grid, *(notes if metric == parts[-1][0] else [])], 3) for metric, grid in parts)]


def _of_run(experiment: str, run: Run, settings: TableSettings) -> list[Section]:
    """What the page of a run tells, with a ROC of all methods on each source in place of those of each method."""
    rocs, scored = list[Part](), not_transferred(run.scored)
    for source in dict.fromkeys(one.source for one in scored):
        methods = {title(one.detector): one for one in scored if one.source == source}
        figure = roc_curves(f"ROC on {source_title(source)}", methods)
        rocs.append(Picture(as_png(figure), f"ROC on {source_title(source)}"))
    pictures = {name: as_png(draw()) for name, draw in drawings(run).items() if name.startswith(_SHOWN)}
    sections = [
        Section("classifier", classifier_sentences(run.provenance)),
        Section("ROC curves", rocs),
        Section("what one image asks to change (Figure 1)", [_first_layer(run, settings)]),
        *run_sections(run, pictures),
    ]
    return [Section(f"{experiment}: {one.heading}", one.parts, one.level) for one in sections]


def _first_layer(run: Run, settings: TableSettings) -> Part:
    stored = run.arrays.get("first_layer")
    if not stored:
        return "Not drawn: the network has no convolution."
    others = [source for source in stored["images"] if source != NORMAL]
    asked = {"near": settings.near or next(iter(others), ""), "far": settings.far or next(reversed(others), "")}
    shown = {f"{role}: {source_title(source)}": source for role, source in asked.items() if source in stored["images"]}
    caption = f"{stored['name']} and the gradient of the all-ones loss for one image each"
    return Picture(as_png(first_layer_figure(stored, {NORMAL: NORMAL} | shown)), caption)
