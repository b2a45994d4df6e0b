"""Tables as Markdown, LaTeX and CSV; all three hold the same numbers."""

import csv
import io
from collections.abc import Callable, Sequence

from lightning_gradood.benchmark.cells import Cell
from lightning_gradood.benchmark.tables import Table, best_of, title

_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$"}
_COLUMNS = ("table", "row", "detector", "mean", "spread", "seeds", "best", "paper")
ABSENT = "-"
NOTE = "Mean ± standard deviation over seeds, in %; best of each row in bold; [the paper's number]."


def markdown(table: Table) -> str:
    """A Markdown table under its caption."""
    lines = [_line([*table.heads, *map(title, table.detectors)])]
    lines.append(_line([*["---"] * len(table.heads), *["---:"] * len(table.detectors)]))
    lines += [_line([*heads, *_marked(cells, table.detectors, "**{}**".format)]) for heads, cells in table.rows]
    return "\n".join([f"**{table.caption}** {NOTE}", "", *lines, ""])


def latex(table: Table) -> str:
    """A LaTeX table for booktabs."""
    columns = "l" * len(table.heads) + "r" * len(table.detectors)
    body = [[*table.heads, *map(title, table.detectors)]]
    body += [[*heads, *_marked(cells, table.detectors, r"\textbf{{{}}}".format)] for heads, cells in table.rows]
    head, *rows = [" & ".join(map(_escaped, line)) + r" \\" for line in body]
    parts = [
        r"\begin{table}",
        rf"\caption{{{_escaped(f'{table.caption} {NOTE}')}}}",
        rf"\begin{{tabular}}{{{columns}}}",
    ]
    return "\n".join(
        [*parts, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )


def paper_layout(table: Table, columns: Sequence[str]) -> str:
    """Table 2 as the paper prints it, in Markdown: a column for each metric, the methods' numbers separated by slashes.

    Args:
        table: with heads Metric, In, Out.
        columns: the detectors to show, those that are there.
    """
    shown = [detector for detector in columns if detector in table.detectors]
    metrics = list(dict.fromkeys(metric for (metric, *_), _ in table.rows))
    places = list(dict.fromkeys(tuple(place) for (_, *place), _ in table.rows))
    cells = {heads: {name: found[name] for name in shown} for heads, found in table.rows}
    lines = [_line(["In", "Out", *metrics]), _line(["---"] * (2 + len(metrics)))]
    for place in places:
        groups = [_marked(cells[metric, *place], shown, "**{}**".format) for metric in metrics]
        lines.append(_line([*place, *(" / ".join(group) for group in groups)]))
    order = " / ".join(map(title, shown))
    return "\n".join([f"**{table.caption}** {order}. {NOTE.replace('each row', 'these')}", "", *lines, ""])


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


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
