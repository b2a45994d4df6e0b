"""All figures of a report by name, drawn and written."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lightning_gradood.core import atomic_write
from lightning_gradood.report.bundle import DetectionReport, by_detector, not_transferred
from lightning_gradood.report.image_figures import extreme_images, sample_sheet
from lightning_gradood.report.network_figures import layer_norms
from lightning_gradood.report.plots import heat_map, precision_recall_curves, roc_curves, score_histograms
from lightning_gradood.report.tables import matrices

_PNG_DPI = 110  # sharp enough at a phone's width, a tenth of a megabyte each


def as_png(figure: Figure) -> bytes:
    """Encode a figure as PNG.

    Args:
        figure: any of this room's.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI)
    return buffer.getvalue()


_DPI = 150


def draw_figures(report: DetectionReport) -> dict[str, Figure]:
    """Draw what the report has data for.

    Args:
        report: its outcomes, norms and samples are drawn.

    Returns:
        Name to figure: `roc_<detector>`, `precision_recall_<detector>`, `scores_<detector>` for each detector, then
        `matrix_<detector>` for each that was trained on one source and tested on another, `layer_norms` and `samples` if
        there are any, and `extremes_<detector>`, the images on which it was most wrong.
    """
    figures = {}
    for detector, outcomes in by_detector(not_transferred(report.outcomes)).items():
        name = _file_name(detector)
        figures[f"roc_{name}"] = roc_curves(outcomes)
        figures[f"precision_recall_{name}"] = precision_recall_curves(outcomes)
        figures[f"scores_{name}"] = score_histograms(outcomes)
    for detector, matrix in matrices(report.outcomes).items():
        figures[f"matrix_{_file_name(detector)}"] = heat_map(matrix)
    if report.norms:
        figures["layer_norms"] = layer_norms(report.norms, report.layer_names)
    if report.samples:
        figures["samples"] = sample_sheet(report.samples)
    for detector, rows in report.extremes.items():
        figures[f"extremes_{_file_name(detector)}"] = extreme_images(rows)
    return figures


def write_figures(report: DetectionReport, folder: Path) -> list[Path]:
    """Write every figure as PNG.

    Args:
        report: what to draw.
        folder: the run's folder; the files go to `figures/` in it.

    Returns:
        The paths, in the order of `draw_figures`.
    """
    paths = []
    for name, figure in draw_figures(report).items():
        paths.append(folder / "figures" / f"{name}.png")
        with atomic_write(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=_DPI)
    return paths


def as_pngs(report: DetectionReport, written: Sequence[Path]) -> dict[str, bytes]:
    """Figures of a report for a page, read from files where they were written as PNG, and drawn where not.

    Args:
        report: whose figures.
        written: what `write_figures` has written for it; empty if no figures are wanted.

    Returns:
        Name to PNG.
    """
    found = {path.stem: path.read_bytes() for path in written if path.suffix == ".png"}
    if found or not written:
        return found
    return {name: as_png(figure) for name, figure in draw_figures(report).items()}


def _file_name(detector: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", detector)
