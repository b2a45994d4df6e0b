"""All figures of a report by name, drawn and written in the requested formats."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib as mpl
from matplotlib.figure import Figure

from lightning_gradood.core import Refusal, atomic_write
from lightning_gradood.report.bundle import DetectionReport, by_detector, not_transferred
from lightning_gradood.report.image_figures import attacked_samples, extreme_images, sample_sheet
from lightning_gradood.report.network_figures import activation_norms, first_layer_figure, layer_norms
from lightning_gradood.report.plots import heat_map, precision_recall_curves, roc_curves, score_histograms
from lightning_gradood.report.tables import matrices

_PNG_DPI = 110  # sharp enough at a phone's width, a tenth of a megabyte each


def as_png(figure: Figure) -> bytes:
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI)
    return buffer.getvalue()


Format = Literal["png", "pdf", "svg"]
# Images inside vector figures have a resolution too.
_SAVING: dict[str, dict[str, Any]] = {
    "png": {"dpi": 150},
    "pdf": {"dpi": 300, "metadata": {"CreationDate": None}},
    "svg": {"dpi": 300, "metadata": {"Date": None}},
}


@dataclass(frozen=True)
class ReportSettings:
    """How the figures of a run are written.

    Args:
        formats: any of `png`, `pdf` and `svg`; the last two are vector graphics with their fonts, for papers.
        titles: whether figures have titles; in a paper the caption says it. Panels of one figure keep theirs.
    """

    formats: list[Format] = field(default_factory=lambda: ["png"])
    titles: bool = True

    def __post_init__(self) -> None:
        known, given = get_args(Format), list(self.formats)
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise Refusal(
                f"`report.formats` should list one or more of {', '.join(known)}, each once. "
                f"Got `report.formats = {given}`. Write e.g. --report.formats '[png, pdf]'."
            )


def draw_figures(report: DetectionReport, titles: bool = True) -> dict[str, Figure]:
    """Draw what the report has data for, by name; without `titles`, panels of one figure keep theirs.

    Names: `roc_`, `precision_recall_` and `scores_<detector>`; `matrix_<detector>` under protocol `cross`;
    `layer_norms`, `activation_norms`, `first_layer`, `samples`, `attacked_samples`; `extremes_<detector>`, images on
    which it was most wrong.
    """
    figures = {}
    for detector, outcomes in by_detector(not_transferred(report.outcomes)).items():
        name = _file_name(detector)
        figures[f"roc_{name}"] = roc_curves(outcomes)
        figures[f"precision_recall_{name}"] = precision_recall_curves(outcomes)
        figures[f"scores_{name}"] = score_histograms(outcomes)
    for detector, matrix in matrices(report.outcomes).items():
        figures[f"matrix_{_file_name(detector)}"] = heat_map(matrix)
    figures |= _of_network_and_images(report)
    for detector, rows in report.extremes.items():
        figures[f"extremes_{_file_name(detector)}"] = extreme_images(rows)
    if not titles:
        for figure in figures.values():
            figure.suptitle("").set_in_layout(False)
    return figures


def _of_network_and_images(report: DetectionReport) -> dict[str, Figure]:
    drawn = {
        "layer_norms": report.norms and layer_norms(report.norms, report.layer_names),
        "activation_norms": report.features and activation_norms(report.features, report.feature_names),
        "first_layer": report.first_layer and first_layer_figure(report.first_layer),
        "samples": report.samples and sample_sheet(report.samples),
        "attacked_samples": report.pairs and attacked_samples(report.pairs),
    }
    return {name: figure for name, figure in drawn.items() if isinstance(figure, Figure)}


def write_figures(report: DetectionReport, folder: Path, settings: ReportSettings | None = None) -> list[Path]:
    """Write every figure into `figures/` of the run folder, as PNG with titles unless the settings say otherwise."""
    settings, paths = settings or ReportSettings(), []
    # Fonts as TrueType (journals refuse matplotlib's default, Type 3) or as paths; equal reports give equal files.
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lightning_gradood"}):
        for name, figure in draw_figures(report, settings.titles).items():
            for kind in settings.formats:
                paths.append(folder / "figures" / f"{name}.{kind}")
                with atomic_write(paths[-1]) as file:
                    figure.savefig(file, format=kind, **_SAVING[kind])
    return paths


def as_pngs(report: DetectionReport, written: Sequence[Path]) -> dict[str, bytes]:
    """PNG of each figure by name: as `written` by `write_figures`, or drawn anew if not PNG; none for no files."""
    found = {path.stem: path.read_bytes() for path in written if path.suffix == ".png"}
    if found or not written:
        return found
    return {name: as_png(figure) for name, figure in draw_figures(report).items()}


def _file_name(detector: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", detector)
