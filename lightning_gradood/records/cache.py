"""Records, and what probes learnt, on disk by key: sealed files, each whole or absent, compared with their seals.

A file is named by its seal, the SHA-256 of its entry's key and of its content, so that a damaged file and a file of
another entry are both recognised before anything in them is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightning_gradood.core import (
    Component,
    Refusal,
    atomic_write,
    first_line,
    pack,
    say,
    unpack,
    writing_refused,
)
from lightning_gradood.records.table import Records, read_table

_FORMAT = 3  # of shards and states; part of every seal
_FLAG = "--cache_dir"
_SHARDS, _STATES = "*.parquet", "*.safetensors"
_SHOWN = 5  # damaged files that are named one by one


class Damaged(Refusal):
    """A file of the cache is not as it was written; `got` is what was found."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(
            f"{path} should be as it was written. Got {got}. Run the same command again: what is damaged will be computed anew."
        )
        self.path, self.got = path, got


def entry_key(ingredients: Mapping[str, object]) -> str:
    """SHA-256, 64 hexadecimal digits, of everything that a cache entry depends on.

    Args:
        ingredients: JSON-able values by name, such as digests of weights and images, the attack, the probe with its
            version and label design, and the dtype, in any order. Others raise a TypeError: their text could hide a
            difference.
    """
    canonical = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class RecordCache:
    """Entries of records by key: `<folder>/<key>/`, holding Parquet shards.

    An interrupted run finds its shards again (`done`) and probes only the missing images, and so does one that wants more
    images than another. Several processes and runs may write the same entry: rows written twice are equal and read
    once. `mend` removes what is damaged, so that its
    images are probed again. What a probe learnt from the training images is one safetensors file, under a key of its own.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._checked: set[tuple[object, ...]] = set()  # files that were compared, as they were then

    def read(self, key: str, ids: Sequence[str]) -> Records:
        """Read the records of these images, sorted by id; missing ones and a damaged shard are refused."""
        parts = [Records(self._table(path, key)) for path in self._files(key, _SHARDS)]
        if missing := set(ids).difference(*(part.ids for part in parts)):
            raise Refusal(
                f"The records in {self.folder / key} should hold all {len(ids)} images. Got none for {len(missing)} of "
                f"them, such as {min(missing)}. Run the same command again: it probes only those."
            )
        found = Records.concatenate(parts).by_id()
        return found.keep(pc.is_in(found.table["id"], pa.array(ids, pa.string())).to_numpy())

    def rows(self, key: str, ids: Sequence[str]) -> Records:
        """Read the records of some images, in the order of `ids`, without loading all of the entry."""
        wanted = pc.field("id").isin(list(ids))
        parts = [Records(self._table(path, key, filters=wanted)) for path in self._files(key, _SHARDS)]
        found = Records.concatenate(parts).by_id()
        place = {name: row for row, name in enumerate(found.ids)}
        return found.at([place[name] for name in ids])

    def done(self, key: str) -> set[str]:
        """Ids whose records are there; damaged shards are passed over."""
        found = set[str]()
        for path in self._files(key, _SHARDS):
            with suppress(Damaged):
                found |= {*self._table(path, key, columns=["id"])["id"].to_pylist()}
        return found

    def write_shard(self, key: str, records: Records) -> None:
        """Add records to an entry; on a full disk refuses, and the next run uses what was written before."""
        content = pa.BufferOutputStream()
        pq.write_table(records.table.replace_schema_metadata(None), content)
        self._write_sealed(key, memoryview(content.getvalue()), ".parquet")

    def mend(self, keys: Collection[str]) -> bool:
        """Name and delete damaged files of entries and states, and return whether there were any."""
        damages = list[Damaged]()
        for key in keys:
            for path in [*self._files(key, _SHARDS), *self._files(key, _STATES)]:
                try:
                    self._compare(path, key)
                except Damaged as damaged:
                    damages.append(damaged)
        for one in damages:
            with writing_refused(one.path, _FLAG):
                one.path.unlink(missing_ok=True)
        for one in damages[:_SHOWN]:
            say(f"Damaged: {one.path} holds {one.got}.")
        if damages:
            say(f"What {len(damages)} damaged files held is computed anew.")
        return bool(damages)

    def has_state(self, key: str) -> bool:
        """Whether there is a state of that key."""
        return bool(self._files(key, _STATES))

    def read_state(self, key: str, trust: Collection[str] = ()) -> Any:
        """Read what a probe learnt, as `core.unpack` does; a missing or damaged file is refused."""
        path = next(iter(self._files(key, _STATES)), self.folder / key)
        self._compare(path, key)
        try:
            return unpack(path, trust)
        except (OSError, ValueError) as error:
            raise Damaged(path, f"what cannot be read ({error})") from error

    def write_state(self, key: str, state: Component) -> None:
        """Write what a probe learnt: a component with arrays."""
        self._write_sealed(key, pack(state), ".safetensors")

    def _files(self, key: str, pattern: str) -> list[Path]:
        return sorted((self.folder / key).glob(pattern))

    def _table(
        self, path: Path, key: str, columns: list[str] | None = None, filters: pc.Expression | None = None
    ) -> pa.Table:
        self._compare(path, key)
        try:
            return read_table(path, columns, filters)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(path, f"what cannot be read ({first_line(error)})") from error

    def _compare(self, path: Path, key: str) -> None:
        """Refuse a file that differs from its seal, unless it was compared before and has not changed."""
        try:
            state = os.stat(path)
            mark = (path, key, state.st_ino, state.st_size, state.st_mtime_ns)
            if mark in self._checked:
                return
            with path.open("rb") as file:
                seal = hashlib.file_digest(file, lambda: _unsealed(key)).hexdigest()
        except OSError as error:
            raise Damaged(path, f"what cannot be read ({error.strerror})") from error
        if seal != path.stem:
            raise Damaged(path, "content that differs from its checksum, or is of another entry")
        self._checked.add(mark)

    def _write_sealed(self, key: str, content: bytes | memoryview, suffix: str) -> None:
        seal = _unsealed(key)
        seal.update(content)
        with atomic_write(self.folder / key / f"{seal.hexdigest()}{suffix}", _FLAG) as file:
            file.write(content)


def _unsealed(key: str) -> hashlib._Hash:
    return hashlib.sha256(f"{_FORMAT}/{key}/".encode())
