"""The page's first sentences: who is best where, counted from the tables."""

from collections.abc import Sequence

from lightning_gradood.benchmark.tables import Table, best_of, title

_METRIC = "AUROC"  # of Table 2's three, that in which methods are compared


def summary(tables: Sequence[Table]) -> list[str]:
    """One sentence for each table.

    Args:
        tables: as `table_1` and `table_2` make them.
    """
    return [_sentence(table) for table in tables]


def _sentence(table: Table) -> str:
    rows = [(heads, cells) for heads, cells in table.rows if table.heads[0] != "Metric" or heads[0] == _METRIC]
    wins: dict[str, list[str]] = {}
    for heads, cells in rows:
        for detector in best_of(cells):
            wins.setdefault(detector, []).append(_place(heads, rows))
    ranked = sorted(wins.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{title(detector)} on {_counted(places, len(rows))}" for detector, places in ranked]
    return f"{table.caption.split(',')[0].rstrip('.')}, by mean AUROC, the best (ties counted for each): {'; '.join(parts)}."


def _counted(places: Sequence[str], rows: int) -> str:
    return f"all {rows}" if 1 < len(places) == rows else f"{len(places)} of {rows} ({', '.join(places)})"


def _place(heads: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], object]]) -> str:
    """The source, with its classifier where there are several."""
    *_, model, source = heads
    return source if len({other[-2] for other, _ in rows}) == 1 else f"{source} with {model}"
