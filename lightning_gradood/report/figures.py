"""All figures of a run by name, drawn from its folder and written in the requested formats."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from lightning_gradood.core import atomic_write, going_on_without
from lightning_gradood.report.image_figures import attacked_samples, extreme_images, sample_sheet
from lightning_gradood.report.network_figures import activation_norms, first_layer_figure, layer_norms
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import (
    detector_bars,
    heat_map,
    precision_recall_curves,
    roc_by_source,
    score_histograms,
)
from lightning_gradood.report.tables import by_detector, matrices, not_transferred

Format = Literal["png", "pdf", "svg"]
_DPI = {"png": 150, "pdf": 300, "svg": 300}  # images inside vector figures have a resolution too
_DATES: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class ReportSettings:
    """How the figures of a run are written.

    Args:
        formats: any of `png`, `pdf` and `svg`; the last two are vector graphics with their fonts, for papers.
        titles: whether figures have titles; in a paper the caption says it. Panels of one figure keep theirs.
    """

    formats: list[Format] = field(default_factory=lambda: ["png"])
    titles: bool = True


def as_png(figure: Figure, dpi: int = 110) -> bytes:
    """Encode a figure as PNG; by default sharp enough at a phone's width, a tenth of a megabyte."""
    return _saved(figure, "png", dpi)


def _saved(figure: Figure, kind: str, dpi: int) -> bytes:
    buffer = io.BytesIO()
    # Fonts as TrueType (journals refuse matplotlib's default, Type 3) or as paths; equal runs give equal files.
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lightning_gradood"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=_DATES[kind])
    return buffer.getvalue()


_DRAWN: dict[str, Callable[[Any], Figure]] = {  # what is drawn of the arrays of a run, by figure
    "layer_norms": layer_norms,
    "activation_norms": activation_norms,
    "first_layer": first_layer_figure,
    "samples": sample_sheet,
    "attacked_samples": attacked_samples,
}


def drawings(run: Run) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that the run has data for, by name.

    Names: `aurocs`; `roc_`, `precision_recall_` and `scores_<detector>`; `matrix_<detector>` under protocol `cross`;
    `layer_norms`, `activation_norms`, `first_layer`, `samples`, `attacked_samples`; `extremes_<detector>`, images on
    which it was most wrong.
    """
    calls: dict[str, Callable[[], Figure]] = {"aurocs": partial(detector_bars, run.outcomes)}
    for detector, outcomes in by_detector(not_transferred(run.scored)).items():
        name = _file_name(detector)
        calls[f"roc_{name}"] = partial(roc_by_source, outcomes)
        calls[f"precision_recall_{name}"] = partial(precision_recall_curves, outcomes)
        calls[f"scores_{name}"] = partial(score_histograms, outcomes)
    for detector, matrix in matrices(run.outcomes).items():
        calls[f"matrix_{_file_name(detector)}"] = partial(heat_map, matrix)
    calls |= {name: partial(draw, run.arrays[name]) for name, draw in _DRAWN.items() if run.arrays.get(name)}
    for detector, rows in run.arrays.get("extremes", {}).items():
        calls[f"extremes_{_file_name(detector)}"] = partial(extreme_images, rows)
    return calls


def draw_figures(run: Run) -> dict[str, Figure]:
    """Draw every figure of a run, by name; one that fails is left out with a warning."""
    figures = {}
    for name, draw in drawings(run).items():
        with going_on_without(f"the figure {name}"):
            figures[name] = draw()
    return figures


def write_figures(run: Run, settings: ReportSettings | None = None) -> dict[str, bytes]:
    """Write every figure into `figures/` of the run folder; return them as PNG with titles, for pages and loggers."""
    settings, pictures = settings or ReportSettings(), dict[str, bytes]()
    for name, figure in draw_figures(run).items():
        with going_on_without(f"the figure {name}"):
            pictures[name] = as_png(figure, _DPI["png"])
            if not settings.titles:
                figure.suptitle("").set_in_layout(False)
            for kind in settings.formats:
                as_it_is = settings.titles and kind == "png"
                with atomic_write(run.folder / "figures" / f"{name}.{kind}") as file:
                    file.write(pictures[name] if as_it_is else _saved(figure, kind, _DPI[kind]))
    return pictures


def pictures_of(run: Run) -> dict[str, bytes]:
    """Every figure of a run as PNG by name; nothing is written."""
    return {name: as_png(figure, _DPI["png"]) for name, figure in draw_figures(run).items()}


def _file_name(detector: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", detector)
