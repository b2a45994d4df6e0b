"""Plain tables, written whole or not at all: row by row as Parquet, CSV or JSON lines, or by columns as Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

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


class RowWriter:
    """Writes rows to a binary file; `columns` is name to type (str, float, bool or int), and any value may be None."""

    def __init__(self, file: BinaryIO, columns: Mapping[str, type], kind: Literal["parquet", "csv", "jsonl"]) -> None:
        self._schema = pa.schema([(name, _TYPES[type_]) for name, type_ in columns.items()])
        self._parquet = pq.ParquetWriter(file, self._schema, write_page_checksum=True) if kind == "parquet" else None
        self._file, self._kind, self._rows = file, kind, list[Row]()
        if kind == "csv":
            self._file.write(_csv_line(list(columns)))

    def write(self, row: Row) -> None:
        """Add a row."""
        if self._kind == "csv":
            self._file.write(_csv_line(["" if row[name] is None else row[name] for name in self._schema.names]))
        elif self._kind == "jsonl":
            self._file.write(f"{json.dumps({name: row[name] for name in self._schema.names})}\n".encode())
        else:
            self._rows.append(row)
            if len(self._rows) >= _GROUP:
                self._flush()

    def close(self) -> None:
        """Write buffered rows and the end of the file."""
        if self._parquet is not None:
            self._flush()
            self._parquet.close()

    def _flush(self) -> None:
        if self._parquet is not None and self._rows:
            self._parquet.write_table(pa.Table.from_pylist([dict(row) for row in self._rows], self._schema))
            self._rows.clear()


@contextmanager
def row_file(path: Path, columns: Mapping[str, type], flag: str = "--output") -> Iterator[RowWriter]:
    """Open a table for rows; the file appears once all are written, and not at all if the block raises.

    Args:
        path: ends in one of `ENDINGS`.
        columns: as for `RowWriter`.
        flag: named in the refusal of a file that cannot be written.
    """
    kind: Any = path.suffix.lower().removeprefix(".")
    with atomic_write(path, flag) as file, closing(RowWriter(file, columns, kind)) as writer:
        yield writer


def read_rows(path: Path) -> dict[str, list[Any]]:
    """Read a table that `row_file` or `write_columns` wrote, a .parquet, .csv or .jsonl file, as column to values."""
    if not path.is_file():
        raise Refusal(f"`{path}` should be a table of scores. Got {'a folder' if path.is_dir() else 'no such file'}.")
    readers = {".parquet": read_table, ".csv": _read_csv, ".jsonl": pyarrow.json.read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Refusal(f"`{path}` should end in {', '.join(ENDINGS)}. Name a table of scores.")
    try:
        return dict(reader(path).to_pydict())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Refusal(f"`{path}` should be a readable table. Got: {str(error).splitlines()[0]}.") from error


def _read_csv(path: Path) -> pa.Table:
    text = {"path": pa.string(), "prediction": pa.string(), "label": pa.string(), "error": pa.string()}
    return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=text))


class CsvStream:
    """Writes rows as CSV to a stream, one at a time."""

    def __init__(self, stream: TextIO, columns: Iterable[str]) -> None:
        self._stream, self._columns = stream, list(columns)
        self._stream.write(_csv_line(self._columns).decode())

    def write(self, row: Row) -> None:
        """Add a row."""
        self._stream.write(_csv_line(["" if row[name] is None else row[name] for name in self._columns]).decode())


def _csv_line(values: Sequence[Any]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode(errors="surrogateescape")


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a plain table as Parquet, whole or not at all."""
    with atomic_write(path) as file:
        pq.write_table(pa.table(dict(columns)), file, write_page_checksum=True)


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Read what `write_columns` wrote.

    Raises:
        Refusal: the file is damaged.
    """
    try:
        columns: dict[str, list[Any]] = read_table(path).to_pydict()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Refusal(
            f"{path} should be a table as it was written. Got what cannot be read ({error}). Delete it and run the command "
            "that wrote it again."
        ) from error
    return columns
