"""All figures of a report, by name, drawn and written."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from lightning_gradood.report.atomic import replacing
from lightning_gradood.report.bundle import DetectionReport, by_detector, not_transferred
from lightning_gradood.report.curves import precision_recall_curves, roc_curves
from lightning_gradood.report.heat_map import heat_map
from lightning_gradood.report.histograms import score_histograms
from lightning_gradood.report.layers import layer_norms
from lightning_gradood.report.matrix import matrices
from lightning_gradood.report.samples import sample_sheet

_DPI = 150


def draw_figures(report: DetectionReport) -> dict[str, Figure]:
    """Draw what the report has data for.

    Args:
        report: its outcomes, norms and samples are drawn.

    Returns:
        Name to figure: `roc_<detector>`, `precision_recall_<detector>`, `scores_<detector>` for each detector, then
        `matrix_<detector>` for each that was trained on one source and tested on another, `layer_norms` and `samples` if
        there are any.
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
        with replacing(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=_DPI)
    return paths


def _file_name(detector: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", detector)
