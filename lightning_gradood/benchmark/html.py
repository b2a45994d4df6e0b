"""Pieces of a page: headings, tables, figures; nothing in them is fetched from elsewhere."""

import base64
import itertools
from collections.abc import Sequence
from html import escape

_MANY = 10  # columns that the width of the text has room for
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e5e5e5; }
thead th { vertical-align: bottom; } th.text, td.text { text-align: left; }
th.key { position: sticky; left: 0; background: #fff; text-align: left; white-space: normal; min-width: 5.5rem; }
.full table { font-size: .8rem; } .full thead th { white-space: normal; } .full th, .full td { padding: .2rem .4rem; }
@media (min-width: 66rem) {
  .full { margin-left: calc(33rem - 50vw); margin-right: calc(33rem - 50vw); } .full th.key { min-width: 10rem; }
}
td small { color: #666; display: block; }
pre { overflow-x: auto; background: #f5f5f5; padding: .6rem; font-size: .8rem; }
figure { margin: 1rem 0; } .scroll { overflow-x: auto; } .scroll img { max-width: none; width: max(100%, 44rem); }
 img { max-width: 100%; height: auto; } figcaption, .note { color: #555; font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    )
    return f"{head}{chr(10).join(parts)}\n</body>\n</html>\n"


def heading(text: str, level: int = 2) -> str:
    """A heading of a section."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str | None = None) -> str:
    """A paragraph; `note` is the small kind."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def verbatim(text: str) -> str:
    """Text as it is typed."""
    return f"<pre>{escape(text)}</pre>"


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1) -> str:
    """A table that scrolls inside the page; one of many columns may be wider than the text.

    Args:
        heads: of the columns, text.
        rows: cells, HTML; of rows with the same first cell only the first shows it.
        keys: how many columns on the left are text; the first stays in sight.
    """
    top = "".join(f"<th{_kind(place, keys)}>{escape(head)}</th>" for place, head in enumerate(heads))
    lines = []
    for key, group in itertools.groupby(rows, key=lambda row: row[0]):
        rests = ["".join(f"<td{_kind(place, keys)}>{row[place]}</td>" for place in range(1, len(row))) for row in group]
        head = f'<th class="key" rowspan="{len(rests)}">{key}</th>'
        lines += [head + rests[0], *rests[1:]]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    kind = "wide full" if len(heads) > _MANY else "wide"
    return f'<div class="{kind}"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def picture(png: bytes, caption: str, wide: bool = False) -> str:
    """A figure inside the page; a wide one keeps its size on a phone and scrolls."""
    data = base64.b64encode(png).decode()
    text = escape(caption)
    kind = ' class="scroll"' if wide else ""
    return (
        f'<figure{kind}><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def _kind(place: int, keys: int) -> str:
    return ' class="key"' if place == 0 else ' class="text"' if place < keys else ""
