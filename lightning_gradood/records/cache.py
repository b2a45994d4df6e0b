"""Records on disk by key: entries of Parquet shards, each complete or absent, verified when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lightning_gradood.core import Refusal, atomic_write, check_writable, fits, is_temporary, read_json, writing_refused
from lightning_gradood.records.shards import (
    CACHE_FLAG,
    FORMAT,
    Damaged,
    check_shard,
    digest_of,
    read_shard,
    say_damaged,
    write_shard,
)
from lightning_gradood.records.table import Records


def entry_key(ingredients: Mapping[str, object]) -> str:
    """SHA-256, 64 hexadecimal digits, of everything that a cache entry depends on.

    Args:
        ingredients: JSON-able values by name, such as digests of weights and images, the attack, the probe with its
            version and label design, and the dtype, in any order. Others raise a TypeError: their text could hide a
            difference.
    """
    canonical = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


_ENTRY = "entry.json"
_DIGEST = "digest"  # of entry.json itself, without this entry


class RecordCache:
    """Entries of records by key: `<folder>/<key>/`, holding Parquet shards and `entry.json`.

    Shards of an unfinished entry lie in `<key>.partial/`; each shard, and then the entry, appears by a rename. An
    interrupted run finds its shards again (`done`) and probes only the missing images. Several processes and runs may
    write the same entry: rows written twice are equal and read once. Whatever is read is compared with its checksums;
    `mend` removes what is damaged, so that its images are probed again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._checked: set[tuple[object, ...]] = set()

    def has(self, key: str) -> bool:
        """Whether the entry is complete."""
        return (self.folder / key / _ENTRY).is_file()

    def read(self, key: str) -> Records:
        """Read a complete entry, sorted by id; a missing or damaged one is refused."""
        about = self._entry(key)
        with _of_one_kind(self.folder / key):
            found = Records.concatenate([Records(self._table(path, key)) for path in self._listed(key, about)]).by_id()
        if len(found) != about["rows"] or digest_of(found.ids) != about["ids"]:
            raise Damaged(self.folder / key, f"other rows than the {about['rows']} that were written")
        return found

    def rows(self, key: str, ids: Sequence[str]) -> Records:
        """Read the records of some images of a complete entry, in the order of `ids`, without loading all of it."""
        wanted = pc.field("id").isin(list(ids))
        parts = [self._table(path, key, wanted) for path in self._listed(key, self._entry(key))]
        with _of_one_kind(self.folder / key):
            found = Records(pa.concat_tables(parts)).by_id()
        place = {name: row for row, name in enumerate(found.ids)}
        lacking = [name for name in ids if name not in place]
        if lacking:
            raise Damaged(self.folder / key, f"no row for {lacking[0]}")
        return Records(found.table.take([place[name] for name in ids]))

    def done(self, key: str) -> set[str]:
        """Ids that an interrupted run has already written for this entry."""
        found: set[str] = set()
        for path in self._shards(self._partial(key)):
            with suppress(Damaged):  # or gone, as another run has finished the entry
                found.update(check_shard(path, key))
        return found

    def mend(self, wanted: Mapping[str, Sequence[str]]) -> bool:
        """Name and delete damaged files of entries, and return whether there were any; `wanted` maps keys to ids."""
        found = {key: self._damages(key, frozenset(ids)) for key, ids in wanted.items()}
        damages = [one for part in found.values() for one in part]
        if not damages:
            return False
        say_damaged(damages)
        for key in [key for key, part in found.items() if part]:
            entry, partial = self.folder / key, self._partial(key)
            files = (entry / _ENTRY, partial, *self._shards(entry), *self._shards(partial))
            with writing_refused(entry, CACHE_FLAG, *files):
                self._set_aside(key, {one.path for one in found[key]})
        return True

    def check_writable(self, size: int) -> None:
        """Refuse a folder that cannot be written or has no room for `size` bytes, before the network is read."""
        check_writable(self.folder, CACHE_FLAG, size)

    def write_shard(self, key: str, records: Records) -> None:
        """Add records to an unfinished entry; on a full disk refuses, and the next run uses what was written before."""
        try:
            write_shard(self._partial(key), key, records.table, CACHE_FLAG)
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

    def _publish(self, key: str, ids: Sequence[str], description: Mapping[str, object]) -> None:
        partial, entry = self._partial(key), self.folder / key
        wanted = frozenset(ids)
        shards = {path.name: set(check_shard(path, key)) for path in self._shards(partial)}
        shards = {name: found for name, found in shards.items() if found <= wanted}  # others' rows are left out
        missing = wanted.difference(*shards.values())
        if missing:
            raise Refusal(
                f"The records in {partial} should hold all {len(ids)} images. Got none for {len(missing)} of them, "
                f"such as {min(missing)}. Run the same command again: it probes only those."
            )
        names = sorted(wanted)
        about = {"format": FORMAT, "key": key, "description": dict(description), "shards": list(shards)}
        about |= {"rows": len(names), "ids": digest_of(names)}
        with writing_refused(partial, CACHE_FLAG, entry):
            with atomic_write(partial / _ENTRY, CACHE_FLAG) as file:
                file.write(json.dumps(about | {_DIGEST: entry_key(about)}, indent=1, sort_keys=True).encode())
            try:
                os.replace(partial, entry)
            except OSError:
                if self.has(key):
                    raise
                shutil.rmtree(entry, ignore_errors=True)  # what a deletion left that was interrupted
                os.replace(partial, entry)

    def _entry(self, key: str) -> dict[str, Any]:
        path = self.folder / key / _ENTRY
        if not path.is_file():
            raise Refusal(
                f"`key` should name a complete entry of {self.folder}. Got `key = {key}`. Run `extract` first."
            )
        try:
            about = read_json(path)
            digest = about.pop(_DIGEST, None)
            if entry_key(about) != digest:
                raise Damaged(path, "content that differs from its checksum")
            if about["key"] != key or about["format"] != FORMAT:
                raise Damaged(path, f"the description of another entry, {about['key']}")
            kinds = {"shards": list[str], "rows": int, "ids": str, "description": dict[str, Any]}
            if wrong := [name for name, kind in kinds.items() if not fits(about[name], kind) or about[name] == []]:
                raise Damaged(path, f"something else under `{wrong[0]}`")
        except (ValueError, AttributeError, TypeError, KeyError, OSError) as error:
            if isinstance(error, Damaged):
                raise
            raise Damaged(path, f"what cannot be read ({error})") from error
        return dict(about)

    def _listed(self, key: str, about: Mapping[str, Any]) -> list[Path]:
        return [self.folder / key / Path(str(name)).name for name in about["shards"]]

    def _table(self, path: Path, key: str, filters: pc.Expression | None = None) -> pa.Table:
        """A shard's rows; compared with its checksums unless it was compared before and has not changed."""
        try:
            state = os.stat(path)
        except OSError as error:
            raise Damaged(path, "no such file") from error
        mark = (path, state.st_ino, state.st_size, state.st_mtime_ns)
        if mark not in self._checked:
            check_shard(path, key)
            self._checked.add(mark)
        return read_shard(path, filters)

    def _damages(self, key: str, ids: Collection[str]) -> list[Damaged]:
        entry, partial = self.folder / key, self._partial(key)
        found = [one for path in self._shards(partial) for one in _damage_of(path, key, ids, gone=True)]
        if not self.has(key):
            return found
        try:
            about = self._entry(key)
        except Damaged as damaged:
            return [*found, damaged, *(one for path in self._shards(entry) for one in _damage_of(path, key, ids))]
        listed = self._listed(key, about)
        found += [one for path in listed for one in _damage_of(path, key, ids)]
        if not found and digest_of(sorted(set(ids))) != about["ids"]:
            found.append(Damaged(entry / _ENTRY, f"{about['rows']} images instead of {len(ids)}"))
        return found

    def _set_aside(self, key: str, damaged: Collection[Path]) -> None:
        """Delete damaged shards; a complete entry becomes an unfinished one with its intact shards."""
        entry, partial = self.folder / key, self._partial(key)
        for path in damaged:
            path.unlink(missing_ok=True)
        if entry.is_dir() and any(path.parent == entry for path in damaged):
            (entry / _ENTRY).unlink(missing_ok=True)
            partial.mkdir(exist_ok=True)
            for path in self._shards(entry):
                os.replace(path, partial / path.name)
            shutil.rmtree(entry, ignore_errors=True)

    def _partial(self, key: str) -> Path:
        return self.folder / f"{key}.partial"

    @staticmethod
    def _shards(folder: Path) -> list[Path]:
        return sorted(folder.glob("*.parquet"))


def _damage_of(path: Path, key: str, ids: Collection[str], gone: bool = False) -> list[Damaged]:
    """Damages of a shard; with `gone` it may be missing, as another run has finished the entry."""
    try:
        foreign = set(check_shard(path, key)).difference(ids)
    except Damaged as damaged:
        return [] if gone and not path.exists() else [damaged]
    return [Damaged(path, f"rows of other images, such as {min(foreign)}")] if foreign else []


@contextmanager
def _of_one_kind(entry: Path) -> Iterator[None]:
    """Refuse shards that are intact one by one but are not records of one table."""
    try:
        yield
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise Damaged(entry, f"shards that are not of one table ({str(error).splitlines()[0]})") from error
