"""Records, and what probes learnt, on disk by key: sealed files, each whole or absent, compared with their seals.

A file is named by its seal, the SHA-256 of its entry's key and of its content, so that a damaged file and a file of
another entry are both recognised before anything in them is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightning_gradood.core import (
    Component,
    Refusal,
    atomic_write,
    first_line,
    pack,
    read_json,
    say,
    unpack,
    writing_refused,
)
from lightning_gradood.records.table import Records, read_table

_FORMAT = 3  # of shards and entries; part of every seal
_FLAG = "--cache_dir"
_ENTRY, _DIGEST = "entry.json", "digest"  # lists an entry's shards; the digest of its other content
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
    """Entries of records by key: `<folder>/<key>/`, holding Parquet shards, and `entry.json` once they are complete.

    An interrupted run finds its shards again (`done`) and probes only the missing images, and so does one that wants more
    images than another. Several processes and runs may write the same entry: rows written twice are equal and read
    once. `mend` removes what is damaged, so that its
    images are probed again. What a probe learnt from the training images is one safetensors file, under a key of its own.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._checked: set[tuple[object, ...]] = set()  # files that were compared, as they were then

    def has(self, key: str, ids: Collection[str] = ()) -> bool:
        """Whether the entry is complete, and holds these images."""
        if not (self.folder / key / _ENTRY).is_file():
            return False
        tables = (self._table(path, key, columns=["id"]) for path in self._listed(key)) if ids else ()
        return {*ids} <= set[str]().union(*(table["id"].to_pylist() for table in tables))

    def read(self, key: str, ids: Collection[str] | None = None) -> Records:
        """Read a complete entry, or of it the records of `ids`, sorted by id; a missing or damaged one is refused."""
        found = Records.concatenate([Records(self._table(path, key)) for path in self._listed(key)]).by_id()
        return found if ids is None or len(ids) == len(found) else found.keep(np.isin(found.column("id"), [*ids]))

    def rows(self, key: str, ids: Sequence[str]) -> Records:
        """Read the records of some images of a complete entry, in the order of `ids`, without loading all of it."""
        wanted = pc.field("id").isin(list(ids))
        parts = [Records(self._table(path, key, filters=wanted)) for path in self._listed(key)]
        found = Records.concatenate(parts).by_id()
        place = {name: row for row, name in enumerate(found.ids)}
        return found.at([place[name] for name in ids])

    def done(self, key: str) -> set[str]:
        """Ids whose records are there, also of an unfinished entry."""
        return set[str]().union(*self._intact(key).values())

    def write_shard(self, key: str, records: Records) -> None:
        """Add records to an entry; on a full disk refuses, and the next run uses what was written before."""
        content = pa.BufferOutputStream()
        pq.write_table(records.table.replace_schema_metadata(None), content)
        self._write_sealed(key, memoryview(content.getvalue()), ".parquet")

    def commit(self, key: str, ids: Sequence[str], description: Mapping[str, object]) -> None:
        """Make the entry complete, or larger; called by one process once all have written their shards.

        Args:
            ids: the images it must hold; a missing one is refused.
            description: JSON-able text of what the entry was computed from.
        """
        if self.has(key, ids):
            return
        shards = self._intact(key)
        missing = set(ids).difference(*shards.values())
        if missing:
            raise Refusal(
                f"The records in {self.folder / key} should hold all {len(ids)} images. Got none for {len(missing)} of "
                f"them, such as {min(missing)}. Run the same command again: it probes only those."
            )
        rows = len(set[str]().union(*shards.values()))
        about = {"format": _FORMAT, "key": key, "rows": rows, "description": dict(description), "shards": list(shards)}
        with atomic_write(self.folder / key / _ENTRY, _FLAG) as file:
            file.write(json.dumps(about | {_DIGEST: entry_key(about)}, indent=1, sort_keys=True).encode())

    def mend(self, keys: Collection[str]) -> bool:
        """Name and delete damaged files of entries and states, and return whether there were any.

        An entry that lacks a file then is unfinished, with its intact shards.
        """
        damages = list[Damaged]()
        for key in keys:
            found = list(self._damages(key))
            paths = [*(one.path for one in found), self.folder / key / _ENTRY] if found else []
            with writing_refused(self.folder / key, _FLAG, *paths):
                for path in paths:
                    path.unlink(missing_ok=True)
            damages += found
        for one in damages[:_SHOWN]:
            say(f"Damaged: {one.path} holds {one.got}.")
        if damages:
            say(f"What {len(damages)} damaged files held is computed anew.")
        return bool(damages)

    def has_state(self, key: str) -> bool:
        """Whether there is a state of that key."""
        return bool(self._files(key, "*.safetensors"))

    def read_state(self, key: str, trust: Collection[str] = ()) -> Any:
        """Read what a probe learnt, as `core.unpack` does; a missing or damaged file is refused."""
        path = next(iter(self._files(key, "*.safetensors")), self.folder / key)
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

    def _intact(self, key: str) -> dict[str, set[str]]:
        """Shards that are not damaged, by name, with the ids that they hold."""
        found: dict[str, set[str]] = {}
        for path in self._files(key, "*.parquet"):
            with suppress(Damaged):
                found[path.name] = set(self._table(path, key, columns=["id"])["id"].to_pylist())
        return found

    def _damages(self, key: str) -> Iterator[Damaged]:
        for path in [*self._files(key, "*.parquet"), *self._files(key, "*.safetensors"), *self._files(key, _ENTRY)]:
            try:
                if path.name == _ENTRY:
                    self._listed(key)
                else:
                    self._compare(path, key)
            except Damaged as damaged:
                yield damaged

    def _listed(self, key: str) -> list[Path]:
        """The shards that a complete entry lists."""
        path = self.folder / key / _ENTRY
        if not path.is_file():
            raise Refusal(
                f"`key` should name a complete entry of {self.folder}. Got `key = {key}`. Run `extract` first."
            )
        try:
            about = read_json(path)
            intact = about.pop(_DIGEST) == entry_key(about) and (about["format"], about["key"]) == (_FORMAT, key)
            shards = [path.with_name(name) for name in about["shards"]]
        except (ValueError, AttributeError, TypeError, KeyError, OSError) as error:
            raise Damaged(path, f"what cannot be read ({error})") from error
        if not intact or not shards:
            raise Damaged(path, "content that differs from its checksum, or is of another entry")
        for shard in shards:
            if not shard.is_file():
                raise Damaged(shard, "no such file")
        return shards

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
