"""All figures of a report, by name, drawn and written."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from lightning_gradood.report.atomic import replacing
from lightning_gradood.report.bundle import DetectionReport, by_detector
from lightning_gradood.report.curves import precision_recall_curves, roc_curves
from lightning_gradood.report.histograms import score_histograms
from lightning_gradood.report.layers import layer_norms
from lightning_gradood.report.samples import sample_sheet

_DPI = 150


def draw_figures(report: DetectionReport) -> dict[str, Figure]:
    """Draw what the report has data for.

    Args:
        report: its outcomes, norms and samples are drawn.

    Returns:
        Name to figure: `roc_<detector>`, `precision_recall_<detector>`, `scores_<detector>` for each detector, then
        `layer_norms` and `samples` if there are any.
    """
    figures = {}
    for detector, outcomes in by_detector(report.outcomes).items():
        # A name becomes a file's name.
        name = re.sub(r"[^\w.+-]+", "_", detector)
        figures[f"roc_{name}"] = roc_curves(outcomes)
        figures[f"precision_recall_{name}"] = precision_recall_curves(outcomes)
        figures[f"scores_{name}"] = score_histograms(outcomes)
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
