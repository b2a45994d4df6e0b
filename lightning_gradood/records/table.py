"""The table of records in memory, normal and anomalous records of one detection data set, and plain tables on disk."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from lightning_gradood.core import Component, Refusal, atomic_write, first_line, parse_json

NORMAL = "normal"  # the name of the one source whose clean images are the normal side
SYNTHETIC = "synthetic_"  # what the names of synthetic outliers start with, as sources and in the column `attack`
SPLITS = ("train", "val", "test")

_COLUMNS: dict[str, tuple[pa.DataType, Any]] = {  # type and default
    "id": (pa.string(), None),
    "origin_id": (pa.string(), None),
    "source": (pa.string(), None),
    "attack": (pa.string(), ""),
    "label": (pa.int64(), -1),
    "prediction": (pa.int64(), -1),
    "success": (pa.bool_(), None),
    "target_hit": (pa.bool_(), None),
    "l2": (pa.float64(), 0.0),
    "linf": (pa.float64(), 0.0),
}
_NAMES = "names"  # metadata key of a probe's column names
_KEPT = (np.uint8, np.float16, np.float32)  # types that values are kept in; all others become float64

_TYPES = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int64()}
_HEAD = (b"head_weight", b"head_bias")  # metadata keys of a table in memory
_GROUP = 10_000  # rows of Parquet that are kept in memory
ENDINGS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True, eq=False)
class LinearHead(Component):
    """A network's last layer, float64: weight [classes, D] and bias [classes]."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, float64 [n, classes], of penultimate features [n, D]."""
        return np.asarray(features @ self.weight.T + self.bias)


class Records:
    """Probe values of images with their ids, immutable.

    Args:
        table: Arrow table with the columns listed in `lightning_gradood.records`; every other column is a probe
            (fixed-size list of numbers), except `split`, which `with_splits` adds.
    """

    def __init__(self, table: pa.Table) -> None:
        names = table.column_names  # which Arrow lists anew each time
        if missing := [name for name in _COLUMNS if name not in names]:
            raise Refusal(f"`table` should have the columns {list(_COLUMNS)}. Got a table without {missing}.")
        self.table = table

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        *,
        source: str | Sequence[str],
        values: Mapping[str, np.ndarray],
        names: Mapping[str, Sequence[str]] | None = None,
        **columns: Sequence[Any],
    ) -> Records:
        """Make records from arrays.

        Args:
            ids: of n images.
            source: of all of them, or of each.
            values: probe name to array [n, width]; uint8, float16 and float32 are kept as they are, all else as float64.
            names: probe name to what its columns are (parameter or layer names); kept in the file's metadata.
            **columns: any of `origin_id` (default: the ids), `attack`, `label`, `prediction`, `success`, `target_hit`,
                `l2`, `linf`.
        """
        given: dict[str, Any] = {"id": ids, "origin_id": ids, "source": _each(source, ids)} | columns
        table = pa.table(
            {name: pa.array(given.get(name, [value] * len(ids)), kind) for name, (kind, value) in _COLUMNS.items()}
        )
        for name, array in values.items():
            lists = _fixed_size_lists(array)
            about = {_NAMES: json.dumps(list((names or {}).get(name, [])))}
            table = table.append_column(pa.field(name, lists.type, metadata=about), lists)
        return cls(table)

    @classmethod
    def concatenate(cls, parts: Sequence[Records]) -> Records:
        """Put records with the same columns one after the other, without a copy of their values."""
        return cls(pa.concat_tables([part.table for part in parts]))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def ids(self) -> list[str]:
        """Ids, in row order."""
        return list(self.table["id"].to_pylist())

    @property
    def anomalous(self) -> np.ndarray:
        """0 for clean images of the normal source, 1 for all others; int64 [n]."""
        anomalous = (self.column("source") != NORMAL) | (self.column("attack") != "")
        return np.asarray(anomalous, dtype=np.int64)

    @property
    def probes(self) -> list[str]:
        """Names of the probe columns."""
        return [name for name in self.table.column_names if name not in _COLUMNS and name != "split"]

    @property
    def finite(self) -> np.ndarray:
        """Whether all values of an image are finite, bool [n]; those for which the network was not finite have NaN."""
        found = np.ones(len(self), dtype=bool)
        for name in self.probes:
            found &= np.isfinite(self.stored(name)).all(axis=1)
        return found

    def at(self, rows: Sequence[int]) -> Records:
        """Some of the rows, in this order."""
        return Records(self.table.take(pa.array(list(rows), pa.int64())))

    def keep(self, rows: np.ndarray) -> Records:
        """Keep some rows, bool [n], without a copy where they are neighbours, such as all of them."""
        first, last = (int(rows.argmax()), len(rows) - int(rows[::-1].argmax())) if rows.any() else (0, 0)
        neighbours = last - first == np.count_nonzero(rows)
        return Records(self.table.slice(first, last - first) if neighbours else self.table.filter(rows))

    def only(self, probes: Sequence[str]) -> Records:
        """Keep the columns of these probes alone, in this order; a missing one is refused."""
        for name in probes:
            self._refuse_unknown(name)
        plain = [name for name in self.table.column_names if name not in self.probes]
        return Records(self.table.select([*plain, *probes]))

    def column(self, name: str) -> np.ndarray:
        """One plain column as an array [n]."""
        return np.asarray(self.table[name].to_numpy(zero_copy_only=False))

    def probe(self, name: str) -> np.ndarray:
        """One probe's values [n, width], float64 unless stored as uint8; a missing one is refused."""
        values = self.stored(name)
        return values if values.dtype == np.uint8 else values.astype(np.float64, copy=False)

    def stored(self, name: str) -> np.ndarray:
        """As `probe`, in the type in which they are stored, such as float32, and without a copy."""
        self._refuse_unknown(name)
        column = self.table[name]
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies also one chunk
        return np.asarray(column.flatten().to_numpy()).reshape(len(self), column.type.list_size)

    def _refuse_unknown(self, name: str) -> None:
        if name not in self.probes:
            raise Refusal(f"`name` should be a probe of these records. Got `name = {name!r}`; they hold {self.probes}.")

    def names(self, probe: str) -> list[str]:
        """Names of the columns of a probe, such as parameter names; empty where none were given."""
        metadata = self.table.schema.field(probe).metadata or {}
        return list(parse_json(metadata.get(_NAMES.encode(), b"[]")))

    @property
    def head(self) -> LinearHead:
        """The linear head of the network that gave these records; a Refusal where `with_head` has not told it."""
        known = self.table.schema.metadata or {}
        if not known.keys() >= {*_HEAD}:
            raise Refusal(
                "`records` should know the network's last layer. Got none. `detect` adds it; in a script, use "
                "`records.with_head(linear_head(network, images))`, see `lightning_gradood.probes`."
            )
        weight, bias = (np.frombuffer(known[key]).copy() for key in _HEAD)  # else they are read-only
        return LinearHead(weight.reshape(len(bias), -1), bias)

    def with_head(self, head: LinearHead) -> Records:
        """Add the network's linear head, which stays with rows and columns that are taken from these records."""
        parts = (head.weight, head.bias)
        kept = dict(self.table.schema.metadata or {})
        kept |= {key: np.ascontiguousarray(one, np.float64).tobytes() for key, one in zip(_HEAD, parts, strict=True)}
        return Records(self.table.replace_schema_metadata(kept))

    def join(self, other: Records) -> Records:
        """Add the probes of `other`, which must hold the same images; sorts by id."""
        if set(self.ids) != set(other.ids):
            raise Refusal(
                f"`other` should hold the same {len(self)} images. Got {len(other)} images, "
                f"{len(set(self.ids) ^ set(other.ids))} of them in one table only."
            )
        mine, theirs = self.by_id().table, other.by_id().table
        for name in other.probes:
            if name not in self.probes:
                mine = mine.append_column(theirs.schema.field(name), theirs[name])
        return Records(mine)

    def by_id(self) -> Records:
        """Sort by id and keep the first record of each, so that the table does not depend on the order of writing."""
        first = np.unique(self.column("id").astype(str), return_index=True)[1]
        return self if np.array_equal(first, np.arange(len(self))) else Records(self.table.take(pa.array(first)))

    def with_splits(self, split_of: Mapping[str, str]) -> Records:
        """Add the column `split` by origin id, and drop rows without a split."""
        splits = pa.array([split_of.get(origin) for origin in self.column("origin_id")], type=pa.string())
        table = self.table.drop_columns(["split"]) if "split" in self.table.column_names else self.table
        table = table.append_column("split", splits)
        return Records(table).keep(np.asarray(splits.is_valid()))

    def as_training(self, source: str) -> Records:
        """The same records as those of a source, all in `train`."""
        place, names = self.table.column_names.index("source"), pa.array([source] * len(self), pa.string())
        return Records(self.table.set_column(place, "source", names)).with_splits(
            dict.fromkeys(self.column("origin_id"), "train")
        )

    def from_origins(self, origins: Collection[str]) -> Records:
        """Keep the rows whose clean image is one of these."""
        return Records(self.table.filter(pc.is_in(self.table["origin_id"], pa.array(sorted(origins), pa.string()))))

    def where(self, **equal: str) -> Records:
        """Keep the rows whose columns have the given values, e.g. `where(source="normal", split="train")`."""
        found = self
        for name, value in equal.items():
            found = found.keep(pc.fill_null(pc.equal(found.table[name], value), False).to_numpy())
        return found


def _each(source: str | Sequence[str], ids: Sequence[str]) -> Sequence[str]:
    return [source] * len(ids) if isinstance(source, str) else source


def _fixed_size_lists(array: np.ndarray) -> pa.Array:
    flat = np.ascontiguousarray(array, dtype=array.dtype if array.dtype in _KEPT else np.float64)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def detection_dataset(
    records: Mapping[str, Records], source: str, noise: str | None = None, keep: Literal["all", "successful"] = "all"
) -> Records:
    """Put the normal and the anomalous side of one source together.

    Args:
        records: by source, with their splits.
        source: the anomalous one.
        noise: the source of the attack's noise control, which joins the normal side.
        keep: `successful`, for an attack, leaves on both sides only images that were classified correctly when clean
            and otherwise when attacked; a Refusal if a split has none.

    Reference:
        Lee et al. 2018, section 3 and their code, which keeps clean, noisy and adversarial versions of the same images.
    """
    sides = [records[NORMAL], *([records[noise]] if noise else []), records[source]]
    if keep == "successful":
        fooled = _fooled(records[NORMAL], records[source], source)
        sides = [side.from_origins(fooled) for side in sides]
    return Records.concatenate(sides)


def normal_records(records: Records) -> Records:
    """Keep the normal records, which alone a one-class detector may use."""
    return records.keep(records.anomalous == 0)


def _fooled(normal: Records, attacked: Records, source: str) -> set[str]:
    """Origins that were classified correctly, or have no label, and whose attack succeeded, in every split."""
    labels, predictions = normal.column("label"), normal.column("prediction")
    right = set(normal.column("id")[(labels < 0) | (labels == predictions)])
    fooled = right & set(attacked.column("origin_id")[attacked.column("success").astype(bool)])
    counts = {split: len(attacked.where(split=split).from_origins(fooled)) for split in SPLITS}
    if not all(counts.values()):
        raise Refusal(
            f"`data.perturbations.keep = successful` should leave images of `{source}` in every split. Got "
            f"{sum(counts.values())} of {len(attacked)} that were classified correctly and then misled: {counts}. "
            "Use `--data.perturbations.keep all`, more images, or a stronger attack."
        )
    return fooled


def read_table(
    file: BinaryIO | Path, columns: list[str] | None = None, filters: pc.Expression | None = None
) -> pa.Table:
    """Read a Parquet file and verify its pages' checksums."""
    return pq.read_table(file, columns=columns, filters=filters, partitioning=None, page_checksum_verification=True)


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type], path: Path | None = None, flag: str = "--output"
) -> None:
    """Write rows as they come; a file appears at the end, and not at all if `rows` raises.

    Args:
        rows: column to value, any of which may be None.
        columns: name to type: str, float, bool or int.
        path: ends in one of `ENDINGS`; without it rows are CSV on standard output.
        flag: named in the refusal of a file that cannot be written.
    """
    if path is None:
        _write_csv(sys.stdout, columns, rows)
        return
    kind, stream = path.suffix.lower(), iter(rows)
    with atomic_write(path, flag) as file:
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


def _write_csv(stream: TextIO, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def read_rows(path: Path, columns: list[str] | None = None) -> dict[str, list[Any]]:
    """Read a table that `write_rows` wrote, a .parquet, .csv or .jsonl file, as column to values.

    Of a Parquet file that is large, some `columns` may be read alone.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise Refusal(f"`{path}` should be a table, {', '.join(ENDINGS)}. Got {got}. Correct the path.")
    whole = {".parquet": partial(read_table, columns=columns), ".csv": _read_csv, ".jsonl": pyarrow.json.read_json}
    reader: Callable[[Path], pa.Table] | None = whole.get(path.suffix.lower())
    if reader is None:
        raise Refusal(f"`{path}` should end in {', '.join(ENDINGS)}. Name a table.")
    try:
        return dict(reader(path).to_pydict())
    except (pa.ArrowException, OSError, ValueError) as error:
        got = f"what cannot be read ({first_line(error)})"
        raise Refusal(
            f"`{path}` should be a readable table. Got {got}. Run the command that wrote it again."
        ) from error


def _read_csv(path: Path) -> pa.Table:
    text = dict.fromkeys(("path", "prediction", "label", "error", "mark"), pa.string())
    return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=text))
