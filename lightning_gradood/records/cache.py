"""Records, and what probes learnt, on disk by key: sealed files, each whole or absent, compared with their seals.

A file is named by its seal, the SHA-256 of its entry's key and of its content, so that a damaged file and a file of
another entry are both recognised before anything in them is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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
    check_writable,
    fits,
    is_temporary,
    pack,
    read_json,
    say,
    unpack,
    writing_refused,
)
from lightning_gradood.records.rows import read_table
from lightning_gradood.records.table import Records

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
    """Entries of records by key: `<folder>/<key>/`, holding Parquet shards and `entry.json`.

    Shards of an unfinished entry lie in `<key>.partial/`; each shard, and then the entry, appears by a rename. An
    interrupted run finds its shards again (`done`) and probes only the missing images. Several processes and runs may
    write the same entry: rows written twice are equal and read once. `mend` removes what is damaged, so that its images
    are probed again. What a probe learnt from the training images is one safetensors file, under a key of its own.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._checked: set[tuple[object, ...]] = set()

    def has(self, key: str) -> bool:
        """Whether the entry is complete."""
        return (self.folder / key / _ENTRY).is_file()

    def read(self, key: str) -> Records:
        """Read a complete entry, sorted by id; a missing or damaged one is refused."""
        return Records.concatenate([Records(self._table(path, key)) for path in self._shards_of(key)]).by_id()

    def rows(self, key: str, ids: Sequence[str]) -> Records:
        """Read the records of some images of a complete entry, in the order of `ids`, without loading all of it."""
        wanted = pc.field("id").isin(list(ids))
        parts = [Records(self._table(path, key, filters=wanted)) for path in self._shards_of(key)]
        found = Records.concatenate(parts).by_id()
        place = {name: row for row, name in enumerate(found.ids)}
        lacking = [name for name in ids if name not in place]
        if lacking:
            raise Damaged(self.folder / key, f"no row for {lacking[0]}")
        return found.at([place[name] for name in ids])

    def done(self, key: str) -> set[str]:
        """Ids that an interrupted run has already written for this entry."""
        found: set[str] = set()
        for path in _shards_in(self._partial(key)):
            with suppress(Damaged):  # or gone, as another run has finished the entry
                found.update(self._ids(path, key))
        return found

    def check_writable(self, size: int) -> None:
        """Refuse a folder that cannot be written or has no room for `size` bytes, before the network is read."""
        check_writable(self.folder, _FLAG, size)

    def write_shard(self, key: str, records: Records) -> None:
        """Add records to an unfinished entry; on a full disk refuses, and the next run uses what was written before."""
        content = pa.BufferOutputStream()
        pq.write_table(records.table.replace_schema_metadata(None), content)
        try:
            _write_sealed(self._partial(key), key, memoryview(content.getvalue()), ".parquet")
        except Refusal as refusal:
            # Perhaps another run finished the entry, these rows included, and renamed the folder.
            if not isinstance(refusal.__cause__, FileNotFoundError) or not self.has(key):
                raise
            for left in (self.folder / key).iterdir():
                if is_temporary(left.name):
                    left.unlink(missing_ok=True)

    def commit(self, key: str, ids: Sequence[str], description: Mapping[str, object]) -> None:
        """Make the entry visible; called by one process once all have written their shards.

        Args:
            ids: the images it must hold; a missing one is refused.
            description: JSON-able text of what the entry was computed from.
        """
        if not self.has(key):
            try:
                self._publish(key, ids, description)
            except (Refusal, OSError):
                if not self.has(key):  # else another run was quicker by a moment; its rows are the same
                    raise
        shutil.rmtree(self._partial(key), ignore_errors=True)

    def mend(self, wanted: Mapping[str, Sequence[str]]) -> bool:
        """Name and delete damaged files of entries, and return whether there were any; `wanted` maps keys to ids."""
        found = {key: self._damages(key, frozenset(ids)) for key, ids in wanted.items()}
        _say_damaged([one for damages in found.values() for one in damages])
        for key, damages in found.items():
            if damages:
                self._set_aside(key, {one.path for one in damages})
        return any(found.values())

    def has_state(self, key: str) -> bool:
        """Whether there is a state of that key."""
        return bool(self._states(key))

    def read_state(self, key: str, trust: Collection[str] = ()) -> Any:
        """Read what a probe learnt, as `core.unpack` does; a missing or damaged file is refused."""
        path = next(iter(self._states(key)), self.folder / key)
        _check_seal(path, key)
        try:
            return unpack(path, trust)
        except (OSError, ValueError) as error:
            raise Damaged(path, f"what cannot be read ({error})") from error

    def write_state(self, key: str, state: Component) -> None:
        """Write what a probe learnt: a component with arrays."""
        _write_sealed(self.folder / key, key, pack(state), ".safetensors")

    def mend_state(self, key: str) -> None:
        """Name and delete a damaged state, so that it is made again."""
        for path in self._states(key):
            try:
                _check_seal(path, key)
            except Damaged as damaged:
                _say_damaged([damaged])
                with writing_refused(path, _FLAG):
                    path.unlink(missing_ok=True)

    def _publish(self, key: str, ids: Sequence[str], description: Mapping[str, object]) -> None:
        partial, entry, wanted = self._partial(key), self.folder / key, frozenset(ids)
        shards = {path.name: set(self._ids(path, key)) for path in _shards_in(partial)}
        shards = {name: found for name, found in shards.items() if found <= wanted}  # others' rows are left out
        missing = wanted.difference(*shards.values())
        if missing:
            raise Refusal(
                f"The records in {partial} should hold all {len(ids)} images. Got none for {len(missing)} of them, "
                f"such as {min(missing)}. Run the same command again: it probes only those."
            )
        about = {"format": _FORMAT, "key": key, "rows": len(wanted), "description": dict(description)}
        about["shards"] = list(shards)
        with writing_refused(partial, _FLAG, entry):
            with atomic_write(partial / _ENTRY, _FLAG) as file:
                file.write(json.dumps(about | {_DIGEST: entry_key(about)}, indent=1, sort_keys=True).encode())
            try:
                os.replace(partial, entry)
            except OSError:
                if self.has(key):
                    raise
                shutil.rmtree(entry, ignore_errors=True)  # what a deletion left that was interrupted
                os.replace(partial, entry)

    def _shards_of(self, key: str) -> list[Path]:
        """The shards that a complete entry lists."""
        path = self.folder / key / _ENTRY
        if not path.is_file():
            raise Refusal(
                f"`key` should name a complete entry of {self.folder}. Got `key = {key}`. Run `extract` first."
            )
        try:
            about = read_json(path)
            intact = about.pop(_DIGEST) == entry_key(about) and (about["format"], about["key"]) == (_FORMAT, key)
            shards = about["shards"]
        except (ValueError, AttributeError, TypeError, KeyError, OSError) as error:
            raise Damaged(path, f"what cannot be read ({error})") from error
        if not intact or not fits(shards, list[str]) or not shards:
            raise Damaged(path, "content that differs from its checksum, or is of another entry")
        return [self.folder / key / Path(name).name for name in shards]

    def _table(
        self, path: Path, key: str, columns: list[str] | None = None, filters: pc.Expression | None = None
    ) -> pa.Table:
        """A shard's rows; it is compared with its seal unless it was compared before and has not changed."""
        try:
            state = os.stat(path)
            mark = (path, key, state.st_ino, state.st_size, state.st_mtime_ns)
            if mark not in self._checked:
                _check_seal(path, key)
                self._checked.add(mark)
            return read_table(path, columns, filters)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(path, f"what cannot be read ({str(error).splitlines()[0]})") from error

    def _ids(self, path: Path, key: str) -> list[str]:
        return list(self._table(path, key, columns=["id"])["id"].to_pylist())

    def _damages(self, key: str, wanted: frozenset[str]) -> list[Damaged]:
        entry, found, held, shards = self.folder / key, list[Damaged](), set[str](), list[Path]()
        if self.has(key):
            try:
                shards = self._shards_of(key)
            except Damaged as damaged:
                found, shards = [damaged], _shards_in(entry)
        for path in [*_shards_in(self._partial(key)), *shards]:
            try:
                ids = frozenset(self._ids(path, key))
                if foreign := ids - wanted:
                    raise Damaged(path, f"rows of other images, such as {min(foreign)}")
                held |= ids if path.parent == entry else set()
            except Damaged as damaged:
                if path.parent == entry or path.exists():  # else another run has just finished the entry
                    found.append(damaged)
        if self.has(key) and not found and held != wanted:
            found.append(Damaged(entry / _ENTRY, f"{len(held)} images instead of {len(wanted)}"))
        return found

    def _set_aside(self, key: str, damaged: Collection[Path]) -> None:
        """Delete damaged files; a complete entry becomes an unfinished one with its intact shards."""
        entry, partial = self.folder / key, self._partial(key)
        shards = _shards_in(entry)
        with writing_refused(entry, _FLAG, entry / _ENTRY, partial, *shards, *_shards_in(partial)):
            for path in damaged:
                path.unlink(missing_ok=True)
            if entry.is_dir() and any(path.parent == entry for path in damaged):
                (entry / _ENTRY).unlink(missing_ok=True)
                partial.mkdir(exist_ok=True)
                for path in set(shards).difference(damaged):
                    os.replace(path, partial / path.name)
                shutil.rmtree(entry, ignore_errors=True)

    def _partial(self, key: str) -> Path:
        return self.folder / f"{key}.partial"

    def _states(self, key: str) -> list[Path]:
        return sorted((self.folder / key).glob("*.safetensors"))


def _shards_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _write_sealed(folder: Path, key: str, content: bytes | memoryview, suffix: str) -> None:
    seal = _unsealed(key)
    seal.update(content)
    with atomic_write(folder / f"{seal.hexdigest()}{suffix}", _FLAG) as file:
        file.write(content)


def _check_seal(path: Path, key: str) -> None:
    try:
        with path.open("rb") as file:
            seal = hashlib.file_digest(file, lambda: _unsealed(key)).hexdigest()
    except OSError as error:
        raise Damaged(path, f"what cannot be read ({error.strerror})") from error
    if seal != path.stem:
        raise Damaged(path, "content that differs from its checksum, or is of another entry")


def _unsealed(key: str) -> hashlib._Hash:
    return hashlib.sha256(f"{_FORMAT}/{key}/".encode())


def _say_damaged(damages: Sequence[Damaged]) -> None:
    """Print the names of damaged files, which are computed anew."""
    for one in damages[:_SHOWN]:
        say(f"Damaged: {one.path} holds {one.got}.")
    if len(damages) > _SHOWN:
        say(f"Damaged: {len(damages) - _SHOWN} more files.")
    if damages:
        say("What they held is computed anew.")
