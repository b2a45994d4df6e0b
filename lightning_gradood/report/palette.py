"""What all figures share: colours that survive colour blindness, a bare frame, no global state."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_gradood.records import NORMAL

# Okabe & Ito (2008), the palette that readers with any common colour blindness can tell apart, without its yellow (too
# pale for lines on white) and its black (normal images are dark grey).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.")
NORMAL_COLOUR = "#555555"
GRID_COLOUR = "#DDDDDD"


def new_figure(width: float, height: float) -> Figure:
    """Make a figure with an Agg canvas of its own: nothing is registered with pyplot, so nothing has to be closed.

    Args:
        width: in inches.
        height: in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_styles(sources: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give every source its colour and dash pattern, the normal images grey.

    Args:
        sources: names in the order of the report; the same order gives the same styles in every figure.

    Returns:
        Source to (colour, dash); pairs are distinct for up to 24 anomaly sources.
    """
    anomalies = [source for source in dict.fromkeys(sources) if source != NORMAL]
    styles = {
        source: (_COLOURS[rank % len(_COLOURS)], _DASHES[rank // len(_COLOURS) % len(_DASHES)])
        for rank, source in enumerate(anomalies)
    }
    return {NORMAL: (NORMAL_COLOUR, "-"), **styles}


def tidy(axes: Axes) -> None:
    """Leave only what carries information: two spines, a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color=GRID_COLOUR, linewidth=0.6)
