"""The tables as Markdown, LaTeX and CSV; all three hold the same numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_gradood.experiments.tables import Cell, Table, best_of, title
from lightning_gradood.report import csv_text, text_table

ABSENT = "-"
_BAR = r"\|"  # in Markdown
NOTE = "Mean ± standard deviation over seeds, in %; best of each row in bold; [the paper's number, on its own images]."


@dataclass(frozen=True)
class Layout:
    """A table as text; numbers in bold are between `**`, the first `words` columns are flush left."""

    caption: str
    note: str
    heads: list[str]
    lines: list[list[str]]
    words: int

    def tabulate(self, form: str, bar: str = "|") -> str:
        """The table alone in one of tabulate's formats; `bar` replaces vertical bars."""
        heads, *lines = [[cell.replace("|", bar) for cell in line] for line in (self.heads, *self.lines)]
        return text_table(heads, lines, form, self.words)


def full_layout(table: Table) -> Layout:
    """A column for each detector."""
    heads = [*table.heads, *map(title, table.detectors)]
    lines = [[*keys, *_marked(cells, table.detectors)] for keys, cells in table.rows]
    return Layout(table.caption, NOTE, heads, lines, len(table.heads))


def paper_layout(table: Table, columns: Sequence[str]) -> Layout:
    """Table 2 as the paper prints it: a column for each metric, the methods' numbers separated by slashes."""
    shown = [detector for detector in columns if detector in table.detectors]
    metrics = list(dict.fromkeys(metric for (metric, *_), _ in table.rows))
    places = list(dict.fromkeys(tuple(place) for (_, *place), _ in table.rows))
    cells = {heads: {name: found[name] for name in shown} for heads, found in table.rows}
    lines = [[*place, *(" / ".join(_marked(cells[metric, *place], shown)) for metric in metrics)] for place in places]
    note = f"{' / '.join(map(title, shown))}. {NOTE.replace('each row', 'these')}"
    return Layout(table.caption, note, ["In", "Out", *metrics], lines, 2 + len(metrics))


def markdown(layout: Layout) -> str:
    """A Markdown table under its caption."""
    return f"**{layout.caption}** {layout.note}\n\n{layout.tabulate('pipe', bar=_BAR)}\n"


def latex(layout: Layout) -> str:
    """A LaTeX table for booktabs."""
    caption = re.sub("([&%_#])", r"\\\1", f"{layout.caption} {layout.note}")
    text = f"\\begin{{table}}\n\\caption{{{caption}}}\n{layout.tabulate('latex_booktabs')}\n\\end{{table}}\n"
    return re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text).replace("±", r"$\pm$")


def tables_csv(tables: Sequence[Table]) -> str:
    """One line for each number, unrounded; shares in [0, 1]."""
    heads = ("table", "row", "detector", "mean", "spread", "seeds", "best", "paper")
    rows = []
    for table in tables:
        for keys, cells in table.rows:
            best = best_of(cells)
            for detector, cell in cells.items():
                if cell:
                    numbers = (cell.mean, cell.spread, len(cell.values), int(detector in best), cell.paper)
                    rows.append((table.name, " / ".join(keys), detector, *numbers))
    return csv_text(heads, rows)


def number(cell: Cell | None) -> str:
    """Our number as text, in % with two decimals."""
    if cell is None:
        return ABSENT
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.2f}"
    return f"{100 * cell.mean:.2f}{spread}"


def paper_text(cell: Cell | None) -> str:
    """The paper's number as text in brackets; empty if it has none."""
    return "" if cell is None or cell.paper is None else f" [{100 * cell.paper:.2f}]"


def _marked(cells: dict[str, Cell | None], detectors: Sequence[str]) -> list[str]:
    best = best_of(cells)
    texts = {detector: number(cells[detector]) for detector in detectors}
    return [
        (f"**{text}**" if detector in best else text) + paper_text(cells[detector]) for detector, text in texts.items()
    ]
