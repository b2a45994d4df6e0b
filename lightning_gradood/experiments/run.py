"""A benchmark from its file to its page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lightning_gradood.core import atomic_write
from lightning_gradood.experiments.jobs import Call, Program, calls_of, failures_of, make_calls, refuse_unknown_images
from lightning_gradood.experiments.page import page
from lightning_gradood.experiments.settings import Benchmark
from lightning_gradood.experiments.tables import Row, rows_of, table_1, table_2
from lightning_gradood.experiments.writing import full_layout, latex, markdown, paper_layout, tables_csv


def run_benchmark(benchmark: Benchmark, folder: Path, program: Program) -> list[str]:
    """Run what lacks results of some detector, write tables and page, and return the names of detectors that failed."""
    calls = calls_of(benchmark, folder, program)
    refuse_unknown_images(benchmark, calls)
    make_calls(calls, program)
    rows = rows_of(benchmark, calls)
    _write(benchmark, calls, rows, folder)
    return list(dict.fromkeys(name for call in calls for name in failures_of(call)))


@rank_zero_only
def _write(benchmark: Benchmark, calls: Sequence[Call], rows: Sequence[Row], folder: Path) -> None:
    tables = [table for table in (table_1(rows), table_2(rows, benchmark.tables)) if table.rows]
    contents = {"tables.csv": tables_csv(tables)}
    for table in tables:
        papers = [paper_layout(table, benchmark.tables.columns)] if table.name == "table_2" else []
        for ending, write in (("md", markdown), ("tex", latex)):
            contents[f"{table.name}.{ending}"] = "\n".join(map(write, [*papers, full_layout(table)]))
    contents["report.html"] = page(folder.name, benchmark, calls, rows, tables)
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    shown = "\n".join(contents[f"{table.name}.md"] for table in tables)
    sys.stdout.write(f"\n{shown}\nTables and page: {folder}\n")
