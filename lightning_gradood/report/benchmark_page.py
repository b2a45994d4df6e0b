"""The paper's tables of a benchmark as files, and one HTML page with its tables, costs, figures and environments."""

import statistics
from collections.abc import Mapping, Sequence

from lightning_gradood.records import NORMAL
from lightning_gradood.report.figures import as_png
from lightning_gradood.report.image_figures import extreme_images, sample_sheet
from lightning_gradood.report.names import source_title
from lightning_gradood.report.network_figures import activation_norms, first_layer_figure, layer_norms
from lightning_gradood.report.pages import (
    ATTACK_HEADS,
    ATTACKS_NOTE,
    READING_HEADS,
    READING_NOTE,
    Code,
    Note,
    Part,
    Picture,
    Section,
    accuracy_text,
    accuracy_warning,
    attack_cells,
    environment,
    reading_cells,
    render,
    split_cells,
)
from lightning_gradood.report.paper_tables import AUDIT, NOTE, PaperTable, Row, TableSettings, grids, summary, title
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import method_rocs
from lightning_gradood.report.tables import Table, not_transferred

_TITLES = {"table_1": "Table 1: adversarial images", "table_2": "Table 2: out-of-distribution images"}
_AUDIT_NOTE = Note(
    "Image statistics never ask the network. A source on which they do well is easy for a reason other than what its images "
    "show; they are an audit and are never counted as best."
)


def benchmark_page(
    name: str,
    seeds: Sequence[int],
    runs: Mapping[str, Sequence[Run]],
    rows: Sequence[Row],
    tables: Sequence[PaperTable],
    settings: TableSettings,
    commands: Sequence[str],
) -> str:
    """Lay out all results as one self-contained HTML file; `runs` are by experiment, one for each of `seeds`."""
    first = {experiment: found[0] for experiment, found in runs.items()}
    about = f"Experiments: {', '.join(runs)}. Seeds: {', '.join(map(str, seeds))}."
    attacks = [[row.experiment, row.source, *attack_cells(row.made_by)] for row in rows if row.made_by]
    counts = [[row.experiment, row.source, *split_cells(row.counts)] for row in rows]
    return render(
        f"Benchmark {name}",
        [
            Section("", [*map(summary, tables), Note(about)]),
            *(section for table in tables for section in _table_sections(table)),
            Section(
                "What attacks did",
                [Table(["experiment", "source", *ATTACK_HEADS], attacks, 2), ATTACKS_NOTE]
                if attacks
                else ["No image was attacked or corrupted."],
            ),
            *(section for name, run in first.items() for section in _figures(name, run, seeds[0], settings)),
            Section("Time and memory", ["Seconds to fit and score, for each source and seed.", _fitting(rows)]),
            Section("Reading the network", _reading(runs), 3),
            Section(
                "Images in each split",
                [
                    Table(["experiment", "source", *(rows[0].counts if rows else [])], counts, 2),
                    Note("Normal + anomalous, with the first seed."),
                ],
            ),
            Section("Commands", [Code(command) for command in commands]),
            Section("Environment", [part for item in first.items() for part in _environment(*item)]),
        ],
    )


def _table_sections(table: PaperTable) -> list[Section]:
    notes = [_AUDIT_NOTE] if AUDIT in table.detectors else []
    parts = grids(table)
    start: list[Part] = [Note(f"{table.caption} {NOTE}")]
    if len(parts) == 1:
        return [Section(_TITLES[table.name], [*start, parts[0][1], *notes])]
    sections = [Section(metric, [grid, *(notes if metric == parts[-1][0] else [])], 3) for metric, grid in parts]
    return [Section(_TITLES[table.name], start), *sections]


def _figures(experiment: str, run: Run, seed: int, settings: TableSettings) -> list[Section]:
    """The figures of an experiment, drawn of its first run; a sentence replaces each that has no data."""
    scored, arrays = not_transferred(run.scored), run.arrays
    rocs: list[Part] = []
    for source in dict.fromkeys(one.source for one in scored):
        methods = {title(one.detector): one for one in scored if one.source == source}
        rocs.append(Picture(as_png(method_rocs(source, methods)), f"ROC on {source_title(source)}"))
    gradients = "3a is not drawn: no detector of this run reads gradient norms."
    features = "3b is not drawn: no detector of this run reads the network's features. LID does."
    layers: list[Part] = [
        Picture(as_png(layer_norms(arrays["layer_norms"])), "3a: gradient norms of every source")
        if arrays.get("layer_norms")
        else gradients,
        Picture(as_png(activation_norms(arrays["activation_norms"])), "3b: activation norms of every source")
        if arrays.get("activation_norms")
        else features,
    ]
    images: list[Part] = [
        Picture(
            as_png(extreme_images(rows)),
            f"Test images on which {title(detector)} was most wrong, with their scores; higher is more anomalous",
        )
        for detector, rows in arrays.get("extremes", {}).items()
    ]
    if samples := arrays.get("samples"):
        text = "Images from all over each source; attacked ones only where data.keep_pixels stores them"
        sheet = sample_sheet({name: shown[:8] for name, shown in samples.items()})
        images.insert(0, Picture(as_png(sheet), text))
    return [
        Section(f"{experiment}: ROC curves", [Note(f"Seed {seed}."), *rocs]),
        Section(f"{experiment}: layer by layer (Figure 3)", layers),
        Section(f"{experiment}: images", images),
        Section(f"{experiment}: what one image asks to change (Figure 1)", [_first_layer(run, settings)]),
    ]


def _first_layer(run: Run, tables: TableSettings) -> Part:
    stored = run.arrays.get("first_layer")
    if not stored:
        return "Not drawn: the network has no convolution."
    others = [source for source in stored["images"] if source != NORMAL]
    asked = {"near": tables.near or next(iter(others), ""), "far": tables.far or next(reversed(others), "")}
    shown = {f"{role}: {source_title(source)}": source for role, source in asked.items() if source in stored["images"]}
    caption = f"{stored['name']} and the gradient of the all-ones loss for one image each"
    return Picture(as_png(first_layer_figure(stored, {NORMAL: NORMAL} | shown)), caption)


def _fitting(rows: Sequence[Row]) -> Table:
    lines = []
    for detector in dict.fromkeys(detector for row in rows for detector in row.seconds):
        seconds = [value for row in rows for value in row.seconds.get(detector, [])]
        lines.append([title(detector), detector, f"{statistics.fmean(seconds):.3f}", f"{max(seconds):.3f}"])
    return Table(["method", "name", "mean s", "most s"], lines, 2)


def _reading(runs: Mapping[str, Sequence[Run]]) -> list[Part]:
    """The costs of probes, each of the first run that has read it."""
    lines = []
    for experiment, found in runs.items():
        costs = {probe: cost for run in found[::-1] for probe, cost in run.provenance.get("probes", {}).items()}
        lines += [[experiment, *reading_cells(probe, cost)] for probe, cost in costs.items()]
    if not lines:
        return ["No run had to read the network: all records were found."]
    return [Table(["experiment", *READING_HEADS], lines, 2), READING_NOTE]


def _environment(experiment: str, run: Run) -> list[Part]:
    table = environment(run.provenance)
    if accuracy := accuracy_text(run.provenance):
        text = f"{accuracy}. {accuracy_warning(run.provenance)}".rstrip(". ")
        table = Table(table.heads, [*table.rows, ["classifier", text]], table.words, table.wrap)
    return [f"{experiment}:", table]
