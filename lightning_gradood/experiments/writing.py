"""The tables as Markdown, LaTeX and CSV; all three hold the same numbers."""

import csv
import io
from collections.abc import Callable, Sequence

from tabulate import tabulate

from lightning_gradood.experiments.tables import Cell, Table, best_of, title

_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$"}
_COLUMNS = ("table", "row", "detector", "mean", "spread", "seeds", "best", "paper")
ABSENT = "-"
NOTE = "Mean ± standard deviation over seeds, in %; best of each row in bold; [the paper's number, on its own images]."
_BOLD = "**{}**".format
_BOLD_LATEX = r"\textbf{{{}}}".format


def markdown(table: Table) -> str:
    """A Markdown table under its caption."""
    head = [*table.heads, *map(title, table.detectors)]
    lines = [[*heads, *_marked(cells, table.detectors, _BOLD)] for heads, cells in table.rows]
    align = ["left"] * len(table.heads) + ["right"] * len(table.detectors)
    return f"**{table.caption}** {NOTE}\n\n{_pipes(head, lines, align)}\n"


def latex(table: Table) -> str:
    """A LaTeX table for booktabs."""
    lines = [[*table.heads, *map(title, table.detectors)]]
    lines += [[*heads, *_marked(cells, table.detectors, _BOLD_LATEX)] for heads, cells in table.rows]
    return _tabular(f"{table.caption} {NOTE}", "l" * len(table.heads) + "r" * len(table.detectors), lines)


def paper_layout(table: Table, columns: Sequence[str]) -> str:
    """Table 2 as the paper prints it, in Markdown: a column for each metric, the methods' numbers separated by slashes.

    Args:
        table: with heads Metric, In, Out.
        columns: the detectors to show, those that are there.
    """
    caption, head, *lines = _grouped(table, columns, _BOLD)
    return f"**{table.caption}** {caption[0]}\n\n{_pipes(head, lines, ['left'] * len(head))}\n"


def paper_layout_latex(table: Table, columns: Sequence[str]) -> str:
    """The same in LaTeX, for booktabs."""
    caption, *lines = _grouped(table, columns, _BOLD_LATEX)
    return _tabular(f"{table.caption} {caption[0]}", "l" * len(lines[0]), lines)


def _grouped(table: Table, columns: Sequence[str], bold: Callable[[str], str]) -> list[list[str]]:
    """The caption, the head and the lines."""
    shown = [detector for detector in columns if detector in table.detectors]
    metrics = list(dict.fromkeys(metric for (metric, *_), _ in table.rows))
    places = list(dict.fromkeys(tuple(place) for (_, *place), _ in table.rows))
    cells = {heads: {name: found[name] for name in shown} for heads, found in table.rows}
    lines = [
        [*place, *(" / ".join(_marked(cells[metric, *place], shown, bold)) for metric in metrics)] for place in places
    ]
    caption = f"{' / '.join(map(title, shown))}. {NOTE.replace('each row', 'these')}"
    return [[caption], ["In", "Out", *metrics], *lines]


def _tabular(caption: str, columns: str, lines: Sequence[Sequence[str]]) -> str:
    head, *rows = [" & ".join(map(_escaped, line)) + r" \\" for line in lines]
    opening = [r"\begin{table}", rf"\caption{{{_escaped(caption)}}}", rf"\begin{{tabular}}{{{columns}}}"]
    return "\n".join(
        [*opening, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )


def csv_text(tables: Sequence[Table]) -> str:
    """One line for each number, unrounded; shares in [0, 1]."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for table in tables:
        for heads, cells in table.rows:
            best = best_of(cells)
            for detector, cell in cells.items():
                if cell:
                    numbers = [cell.mean, cell.spread, len(cell.values), int(detector in best), cell.paper]
                    writer.writerow(
                        [table.name, " / ".join(heads), detector, *("" if n is None else n for n in numbers)]
                    )
    return buffer.getvalue()


def number(cell: Cell | None) -> str:
    """Ours as text, in % with two decimals."""
    if cell is None:
        return ABSENT
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.2f}"
    return f"{100 * cell.mean:.2f}{spread}"


def paper_text(cell: Cell | None) -> str:
    """The paper's as text in brackets; empty if it has none."""
    return "" if cell is None or cell.paper is None else f" [{100 * cell.paper:.2f}]"


def _marked(cells: dict[str, Cell | None], detectors: Sequence[str], bold: Callable[[str], str]) -> list[str]:
    best = best_of(cells)
    texts = {detector: number(cells[detector]) for detector in detectors}
    marked = {detector: bold(text) if detector in best else text for detector, text in texts.items()}
    return [marked[detector] + paper_text(cells[detector]) for detector in detectors]


def _pipes(head: Sequence[str], lines: Sequence[Sequence[str]], align: Sequence[str]) -> str:
    cells = [[cell.replace("|", r"\|") for cell in line] for line in (head, *lines)]
    return str(tabulate(cells[1:], cells[0], "pipe", colalign=align, disable_numparse=True))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
