"""The parts of every HTML page, tables, figures and sections, and the templates that lay them out.

A page is one file without scripts; styles and pictures are embedded.
"""

import base64
import itertools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

PAGE = "report.html"  # in the folder of a run or a benchmark

# A picture beyond both is unreadable on a phone unless it scrolls.
_WIDE = 600  # pixels
_LONG = 1.25  # width by height


@dataclass(frozen=True)
class Cells:
    """One cell of a table on the page: `text`, `small` below it in small type, `best` in bold, spanning `rows`."""

    text: str
    small: str = ""
    best: bool = False
    rows: int = 1


@dataclass(frozen=True)
class Grid:
    """A table on the page; consecutive rows with the same first cell share it.

    Args:
        keys: how many columns on the left are text.
        wrap: whether long text is broken into lines.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cells]]
    keys: int = 2
    wrap: bool = False

    @property
    def lines(self) -> list[list[Cells]]:
        """Rows of cells; the first cell is missing where an earlier row spans it."""
        lines = []
        for key, group in itertools.groupby(self.rows, key=lambda row: row[0]):
            rows = [[cell if isinstance(cell, Cells) else Cells(cell) for cell in row[1:]] for row in group]
            head = Cells(str(key), rows=len(rows))
            lines += [[head, *rows[0]], *rows[1:]]
        return lines


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
class Section:
    """Figures under one heading, or a sentence that says why there are none."""

    heading: str
    note: str
    parts: Sequence[Picture | str]

    @property
    def side_by_side(self) -> bool:
        """Whether the parts stand beside each other where there is room: several, none of them wide."""
        return len(self.parts) > 1 and not any(isinstance(part, Picture) and part.wide for part in self.parts)


def render(template: str, package: str = "lightning_gradood.report", **values: Any) -> str:
    """Fill in a template of `package`, which may extend `page.html.jinja` and import `parts.html.jinja` of this room.

    Text is escaped; a missing value is an error.
    """
    rooms = dict.fromkeys((package, "lightning_gradood.report"))
    jinja = Environment(
        loader=ChoiceLoader([PackageLoader(room, ".") for room in rooms]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["code"] = _code
    return jinja.get_template(template).render(**values)


def _code(text: str) -> Markup:
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
