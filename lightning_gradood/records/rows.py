"""Plain tables, written whole or not at all: row by row as Parquet, CSV or JSON lines, or by columns as Parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from lightning_gradood.core import Refusal, atomic_write

_TYPES = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int64()}
_GROUP = 10_000  # rows of Parquet that are kept in memory
ENDINGS = (".parquet", ".csv", ".jsonl")

Row = Mapping[str, Any]


def read_table(
    file: BinaryIO | Path, columns: list[str] | None = None, filters: pc.Expression | None = None
) -> pa.Table:
    """Read a Parquet file and verify its pages' checksums."""
    return pq.read_table(file, columns=columns, filters=filters, partitioning=None, page_checksum_verification=True)


def write_rows(rows: Iterable[Row], columns: Mapping[str, type], path: Path | None = None) -> None:
    """Write rows as they come; a file appears at the end, and not at all if `rows` raises.

    Args:
        rows: column to value, any of which may be None.
        columns: name to type: str, float, bool or int.
        path: ends in one of `ENDINGS`; without it rows are CSV on standard output.
    """
    if path is None:
        _write_csv(sys.stdout, columns, rows)
        return
    kind, stream = path.suffix.lower(), iter(rows)
    with atomic_write(path, "--output") as file:
        if kind == ".csv":
            text = io.TextIOWrapper(file, "utf-8", newline="")
            _write_csv(text, columns, stream)
            text.detach()
        elif kind == ".jsonl":
            file.writelines(f"{json.dumps({name: row[name] for name in columns})}\n".encode() for row in stream)
        else:
            schema = pa.schema([(name, _TYPES[type_]) for name, type_ in columns.items()])
            with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
                while group := list(islice(stream, _GROUP)):
                    writer.write_table(pa.Table.from_pylist(group, schema))


def _write_csv(stream: TextIO, columns: Iterable[str], rows: Iterable[Row]) -> None:
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def read_rows(path: Path) -> dict[str, list[Any]]:
    """Read a table that `write_rows` or `write_columns` wrote, a .parquet, .csv or .jsonl file, as column to values."""
    if not path.is_file():
        raise Refusal(f"`{path}` should be a table of scores. Got {'a folder' if path.is_dir() else 'no such file'}.")
    readers = {".parquet": read_table, ".csv": _read_csv, ".jsonl": pyarrow.json.read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Refusal(f"`{path}` should end in {', '.join(ENDINGS)}. Name a table of scores.")
    return _read(reader, path, f"`{path}` should be a readable table")


def _read_csv(path: Path) -> pa.Table:
    text = dict.fromkeys(("path", "prediction", "label", "error"), pa.string())
    return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=text))


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Read what `write_columns` wrote; a damaged file is refused."""
    return _read(read_table, path, f"{path} should be a table as it was written")


def _read(reader: Callable[[Path], pa.Table], path: Path, expected: str) -> dict[str, list[Any]]:
    try:
        return dict(reader(path).to_pydict())
    except (pa.ArrowException, OSError, ValueError) as error:
        got = f"what cannot be read ({str(error).splitlines()[0]})"
        raise Refusal(f"{expected}. Got {got}. Run the command that wrote it again.") from error


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a plain table as Parquet, whole or not at all."""
    with atomic_write(path) as file:
        pq.write_table(pa.table(dict(columns)), file, write_page_checksum=True)
