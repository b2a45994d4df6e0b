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
from lightning_gradood.report.image_figures import (
    attacked_samples,
    extreme_images,
    first_layer_figure,
    norm_boxes,
    sample_sheet,
)
from lightning_gradood.report.run import Run
from lightning_gradood.report.score_figures import (
    auroc_bars,
    precision_recall_curves,
    roc_by_source,
    score_histograms,
)
from lightning_gradood.report.tables import by_detector, compared, not_transferred

Format = Literal["png", "pdf", "svg"]
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


def as_png(figure: Figure) -> bytes:
    """Encode a figure as PNG, sharp enough at a phone's width."""
    return _saved(figure, "png")


def _saved(figure: Figure, kind: str) -> bytes:
    buffer, dpi = io.BytesIO(), 150 if kind == "png" else 300  # images inside vector figures have a resolution too
    # Fonts as TrueType (journals refuse matplotlib's default, Type 3) or as paths; equal runs give equal files.
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lightning_gradood"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=_DATES[kind])
    return buffer.getvalue()


_DRAWN: dict[str, Callable[[Any], Figure]] = {  # what is drawn of the arrays of a run, by figure
    "layer_norms": partial(norm_boxes, kind="gradient"),
    "activation_norms": partial(norm_boxes, kind="activation"),
    "first_layer": first_layer_figure,
    "samples": sample_sheet,
    "attacked_samples": attacked_samples,
}


def drawings(run: Run) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that the run has data for, by name.

    Names: `aurocs`; `roc_`, `precision_recall_` and `scores_<detector>`; `layer_norms`, `activation_norms`,
    `first_layer`, `samples`, `attacked_samples`; `extremes_<detector>`, images on which it was most wrong.
    """
    aurocs = {pair: one for pair, (one,) in compared([run.outcomes]).items() if one}
    calls: dict[str, Callable[[], Figure]] = {"aurocs": partial(auroc_bars, aurocs)}
    for detector, outcomes in by_detector(not_transferred(run.scored)).items():
        calls[f"roc_{detector}"] = partial(roc_by_source, outcomes)
        calls[f"precision_recall_{detector}"] = partial(precision_recall_curves, outcomes)
        calls[f"scores_{detector}"] = partial(score_histograms, outcomes)
    calls |= {name: partial(draw, run.arrays[name]) for name, draw in _DRAWN.items() if run.arrays.get(name)}
    for detector, rows in run.arrays.get("extremes", {}).items():
        calls[f"extremes_{detector}"] = partial(extreme_images, rows)
    return {re.sub(r"[^\w.+-]+", "_", name): draw for name, draw in calls.items()}


def draw_figures(run: Run, settings: ReportSettings | None = None) -> dict[str, bytes]:
    """Draw every figure of a run as PNG with titles, by name, for pages and loggers; one that fails is left out.

    With settings they are also written into `figures/` of the run folder.
    """
    pictures = dict[str, bytes]()
    for name, draw in drawings(run).items():
        with going_on_without(f"the figure {name}"):
            figure = draw()
            pictures[name] = as_png(figure)
            if settings is None:
                continue
            if not settings.titles:
                figure.suptitle("").set_in_layout(False)
            for kind in settings.formats:
                with atomic_write(run.folder / "figures" / f"{name}.{kind}") as file:
                    file.write(pictures[name] if kind == "png" and settings.titles else _saved(figure, kind))
    return pictures
