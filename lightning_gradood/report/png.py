"""A figure as bytes, for pages that carry their figures within."""

import io

from matplotlib.figure import Figure

_DPI = 110  # sharp enough at a phone's width, a tenth of a megabyte each


def as_png(figure: Figure) -> bytes:
    """Encode a figure as PNG.

    Args:
        figure: any of this room's.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
