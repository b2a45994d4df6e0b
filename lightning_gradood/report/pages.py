"""HTML pages: sections of text, tables and pictures in one file without scripts, styles and pictures embedded.

`run_page` lays out one run.
"""

import base64
import itertools
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lightning_gradood.evaluation import Outcome
from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import (
    ABSENT,
    FAILED,
    MEAN,
    TEXT,
    Cell,
    ResultTable,
    Table,
    by_detector,
    counted,
    flagged_table,
    matrices,
    matrix_table,
    mean_numbers,
    not_transferred,
    result_table,
)

# A picture beyond both is unreadable on a phone unless it scrolls.
_WIDE = 600  # pixels
_LONG = 1.25  # width by height


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, with its caption."""

    png: bytes
    caption: str

    @property
    def data(self) -> str:
        """The PNG in base64."""
        return base64.b64encode(self.png).decode()

    @property
    def wide(self) -> bool:
        """Whether it keeps its size on a narrow screen and scrolls."""
        width, height = struct.unpack(">II", self.png[16:24])  # a PNG's first chunk, IHDR, says so
        return bool(width > _WIDE and width > _LONG * height)


@dataclass(frozen=True)
class Note:
    """An explanation in small type."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command that can be copied."""

    text: str


Part = str | Note | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    """Parts in order under one heading, which may be empty; text between backticks is code. `level` is that of HTML."""

    heading: str
    parts: Sequence[Part]
    level: int = 2

    @property
    def groups(self) -> Iterator[tuple[bool, list[Part]]]:
        """Parts, and whether they stand beside each other where there is room: several pictures, none of them wide."""
        for pictures, group in itertools.groupby(self.parts, key=lambda part: isinstance(part, Picture)):
            parts = list(group)
            yield pictures and len(parts) > 1 and not any(part.wide for part in parts), parts  # type: ignore[union-attr]


def render(title: str, sections: Sequence[Section]) -> str:
    """Lay sections with content out as one self-contained HTML file; text is escaped."""
    jinja = Environment(
        loader=PackageLoader("lightning_gradood.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    jinja.tests["a"] = lambda part, kind: type(part).__name__ == kind
    shown = [one for one in sections if one.parts]
    return jinja.get_template("page.html.jinja").render(title=title, sections=shown)


_KINDS = {  # first words of a figure's file name, the section it stands in, and its caption
    "aurocs": ("Source by source", "AUROC of every detector on every source; lines on the bars are 95 % intervals"),
    "roc_": ("ROC curves", "ROC of {}"),
    "precision_recall_": ("Precision and recall", "Precision and recall of {}"),
    "scores_": ("Scores", "Scores of {}; higher is more anomalous"),
    "matrix_": ("Heat maps", "AUROC of {} by source of training and of testing"),
    "layer_norms": ("Layer by layer", "Squared gradient norms of every source"),
    "activation_norms": ("Layer by layer", "Activations of feature layers of every source"),
    "first_layer": ("Layer by layer", "The first layer's weights, and their gradients for an image of each source"),
    "attacked_samples": ("Images", "Clean images beside attacked ones, the amplified difference, and both predictions"),
    "samples": ("Images", "Images of every source"),
    "extremes_": ("Most wrong", "Test images on which {} was most wrong, with their scores; higher is more anomalous"),
}


def figure_sections(pictures: Mapping[str, bytes]) -> list[Section]:
    """Sort figures, PNG by name, into sections by the first words of their names."""
    sections: dict[str, list[Part]] = {heading: [] for heading, _ in _KINDS.values()}
    for name, png in pictures.items():
        prefix = next(prefix for prefix in _KINDS if name.startswith(prefix))
        heading, caption = _KINDS[prefix]
        sections[heading].append(Picture(png, caption.format(name.removeprefix(prefix))))
    return [Section(heading, parts) for heading, parts in sections.items()]


_ATTACKS_NOTE = Note(
    "Success: the classifier no longer gives the image its class. Norms are means over images, of pixels in [0, 1]."
)
_READING_NOTE = Note(
    "Each probe alone, on one batch of at most 16 normal images; methods that share a pass cost less together. Memory is "
    "what tensors hold at their peak, beyond the network and the images."
)
_FLAGGED_NOTE = Note(
    "Shares of normal test images above a threshold for each rate, with binomial 95 % intervals; of a detector that is "
    "fitted on each source, the mean."
)
_MATRIX_NOTE = Note(
    "AUROC in %: trained on the row's source, tested on the column's; others = mean of a row without its own source."
)


def run_page(run: Run, pictures: Mapping[str, bytes]) -> str:
    """Lay out a run as one self-contained HTML file; `pictures` are its figures, PNG by name."""
    summary: list[Part] = [
        *classifier_sentences(run.provenance),
        *_best(run.outcomes),
        Note(f"Run folder: {run.folder}"),
    ]
    command = [Code(run.provenance["command"])] if run.provenance.get("command") else []
    return render(run.experiment, [Section("", summary), *run_sections(run, pictures), Section("Command", command)])


def run_sections(run: Run, pictures: Mapping[str, bytes]) -> list[Section]:
    """All that is told of a run, under headings; `pictures` are its figures, PNG by name."""
    outcomes, about = run.outcomes, run.provenance
    table, flagged, attacks = result_table(outcomes, run.failures), flagged_table(outcomes), _attacks(run)
    crossed = matrices(outcomes).items()
    reading = [_reading_cells(*item) for item in about.get("probes", {}).items()]
    scoring: list[Part] = [run.guard.table, "It scores any image:", Code(run.guard.command(run.folder))]
    return [
        Section("Results", [_results(table), Note(" ".join(table.notes))]),
        Section("Normal images flagged", [flagged, _FLAGGED_NOTE] if flagged.rows else []),
        Section("Trained on one source, tested on another", [_MATRIX_NOTE] if crossed else []),
        *(Section(name, [matrix_table(matrix)], 3) for name, matrix in crossed),
        Section("What attacks did", [attacks, _ATTACKS_NOTE] if attacks.rows else []),
        Section("Guard", [run.guard.sentence, *(scoring if run.guard.metrics else [])]),
        *figure_sections(pictures),
        Section("Time", ["Seconds to fit and score.", _fitting(outcomes)]),
        Section("Reading the network", [Table(_READING_HEADS, reading), _READING_NOTE] if reading else [], 3),
        Section("Images in each split", [_splits(outcomes), Note("Normal + anomalous.")]),
        Section("Environment", [_environment(about)]),
    ]


def classifier_sentences(about: Mapping[str, Any]) -> list[str]:
    """The classifier's accuracy on the normal images, and a warning where it is low."""
    if "classifier" not in about:
        return []
    accuracy = accuracy_text(about) or "of unknown accuracy, as the normal images have no labels"
    warning = accuracy_warning(about)
    return [f"The classifier is {accuracy}.", *([f"Warning: {warning}"] if warning else [])]


def accuracy_text(about: Mapping[str, Any]) -> str:
    """The classifier's accuracy on the normal images, in words; empty where they have no classes."""
    found = about.get("classifier", {})
    if found.get("accuracy") is None:
        return ""
    return f"{100 * found['accuracy']:.2f} % accurate on {found['images']} normal images"


def accuracy_warning(about: Mapping[str, Any]) -> str:
    """Warn of a classifier hardly better than chance: below 3 × chance or, with few classes, half way from chance to 1.

    Empty where it is better, or where its accuracy is not known.
    """
    found = about.get("classifier", {})
    if found.get("accuracy") is None or not found.get("classes"):
        return ""
    chance = 1 / found["classes"]
    low = min(3 * chance, (1 + chance) / 2)
    if found["accuracy"] >= low:
        return ""
    return (
        f"{100 * found['accuracy']:.1f} % of the normal images are classified correctly, less than {100 * low:.1f} %, which is "
        "hardly better than chance: the order of the classes is the first suspect. Name the network's outputs in their order "
        "with --data.classes; until then numbers about attacks and detection say little."
    )


def _best(outcomes: Sequence[Outcome]) -> list[str]:
    groups = by_detector(not_transferred(outcomes))
    means = {name: mean_numbers(group)["test"].get("auroc") for name, group in groups.items()}
    printed = {name: f"{100 * value:.2f}" for name, value in means.items() if value is not None}
    if not printed:
        return []
    highest = max(printed.values(), key=float)
    names = [name for name, text in printed.items() if text == highest]
    sources = len({outcome.source for outcome in outcomes})
    over = f"mean AUROC over {sources} sources" if sources > 1 else "AUROC"
    return [f"The highest {over} on the test split, {highest} %, is that of {', '.join(names)}."]


_INTERVAL = "95 % interval"  # below the AUROC on the page, where a column of its own is too wide


def _results(table: ResultTable) -> Table:
    """Results by source, the best AUROC of each in bold; empty columns and numbers of images are left out."""
    full = [head for head in table.heads if any(row[head] != ABSENT for row in table.rows)]
    shown = [head for head in full if head != _INTERVAL and not head.startswith("n ")]
    sources = dict.fromkeys(row["source"] for row in table.rows)
    groups = [[row for row in table.rows if row["source"] == source] for source in sources]
    lines = [
        [_cell(head, row, row["AUROC"] == _highest(group)) for head in shown]
        for group in (*groups, table.means)
        for row in group
    ]
    return Table(shown, lines, len([head for head in shown if head in TEXT]))


def _cell(head: str, row: Mapping[str, str], best: bool) -> str | Cell:
    if head != "AUROC":
        return row[head]
    return Cell(row[head], "" if row["source"] == MEAN else row[_INTERVAL], best)


def _highest(rows: Sequence[Mapping[str, str]]) -> str | None:
    """The highest AUROC as it is printed; None for a single detector."""
    numbers = [row["AUROC"] for row in rows if row["AUROC"] not in (ABSENT, FAILED)]
    return max(numbers, key=float) if len(rows) > 1 and numbers else None


_ATTACK_HEADS = ("images", "success, %", "mean L2", "mean L∞")


def _attack_cells(numbers: Mapping[str, Any]) -> list[str]:
    """What an attack or corruption did, under `_ATTACK_HEADS`; norms are means, of pixels in [0, 1]."""
    success = numbers.get("attack_success")
    norms = [numbers.get(name) for name in ("attack_l2", "attack_linf")]
    rest = [ABSENT if value is None else f"{value:.3f}" for value in norms]
    return [str(numbers["images"]), ABSENT if success is None else f"{100 * success:.2f}", *rest]


def _attacks(run: Run) -> Table:
    """What was done to the images of tested sources; outliers used only for training are left out."""
    tested = {outcome.source for outcome in run.outcomes}
    rows: list[list[str | Cell]] = [
        [name, _made_by(about), *_attack_cells(about)]
        for name, about in run.provenance.get("perturbations", {}).items()
        if name in tested
    ]
    return Table(["source", "made by", *_ATTACK_HEADS], rows, words=2)


def _made_by(about: Mapping[str, Any]) -> Cell:
    settings = [f"{name}={_short(value)}" for name, value in about["init_args"].items() if value is not None]
    return Cell(str(about["class_path"]).rpartition(".")[2], ", ".join(settings))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_READING_HEADS = ("probe", "ms an image", "MiB an image")


def _reading_cells(probe: str, cost: Mapping[str, float]) -> list[str]:
    """What reading a probe costs, under `_READING_HEADS`."""
    memory = f"{cost['mebibytes']:.1f}" if "mebibytes" in cost else ABSENT
    return [probe, f"{cost['milliseconds']:.2f}", memory]


def _fitting(outcomes: Sequence[Outcome]) -> Table:
    groups = by_detector(not_transferred(outcomes))
    rows = [
        [name, f"{sum(one.seconds for one in group):.2f}", f"{max(one.seconds for one in group):.2f}"]
        for name, group in groups.items()
    ]
    return Table(["detector", "all sources, s", "longest, s"], rows)


def _splits(outcomes: Sequence[Outcome]) -> Table:
    """Numbers of images in each split, from the first detector; one that needs no anomalies has fewer."""
    counts: dict[str, Mapping[str, Mapping[str, int]]] = {}
    for outcome in not_transferred(outcomes):
        counts.setdefault(outcome.source, outcome.counts)
    heads = list(next(iter(counts.values())))
    return Table(["source", *heads], [[source, *map(counted, one.values())] for source, one in counts.items()])


_SHOWN = (
    *("versions", "device", "machine", "commit", "seconds", "checkpoint", "network_digest"),
    *("command", "classifier", "perturbations", "records", "probes"),
)


def _environment(about: Mapping[str, Any]) -> Table:
    """Software and hardware of a run, and all of its provenance that is not shown elsewhere."""
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    rows = {"versions": versions} | {name: str(about.get(name, ABSENT)) for name in ("device", "machine", "commit")}
    if "seconds" in about:
        rows["duration"] = f"{about['seconds']} s, reading and detectors"
    if "checkpoint" in about:
        rows["weights"] = str(about["checkpoint"] or "as the network was built")
    rows |= {name: json.dumps(value, default=str) for name, value in about.items() if name not in _SHOWN}
    return Table(["", ""], list(map(list, rows.items())), words=2, wrap=True)
