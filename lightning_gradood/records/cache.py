"""Records and probe states on disk: keys, Parquet shards and safetensors files, each whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lightning_gradood.core import Refusal, atomic_write, disk_full_refused
from lightning_gradood.records.table import Records


def entry_key(ingredients: Mapping[str, object]) -> str:
    """Digest everything that a cache entry depends on.

    Args:
        ingredients: JSON-able values by name, such as the digest of the weights, the digest of the images, the attack,
            the probe with its version and label design, and the dtype. Their order does not matter.

    Returns:
        SHA-256 as 64 hexadecimal digits.

    Raises:
        TypeError: if an ingredient cannot be written as JSON; its default text could hide a difference.
    """
    canonical = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


_ENTRY = "entry.json"


class RecordCache:
    """Entries of records by key: `<folder>/<key>/`, holding Parquet shards and `entry.json`.

    While an entry is written its shards lie in `<key>.partial/`; each shard appears by a rename, and the whole entry by
    another, so a reader never sees half of one. A run that was killed finds its shards again (`shards`) and
    probes only the images that are still missing. Several processes and several runs may write the same entry: rows that
    were written twice are equal and are read once.

    Args:
        folder: where entries lie; made when first written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def has(self, key: str) -> bool:
        """Whether the entry is complete."""
        return (self.folder / key / _ENTRY).is_file()

    def read(self, key: str) -> Records:
        """Read a complete entry, sorted by id.

        Raises:
            Refusal: if the entry is missing or its files were damaged.
        """
        if not self.has(key):
            raise Refusal(
                f"`key` should name a complete entry of {self.folder}. Got `key = {key}`. Run `extract` first."
            )
        return Records.concatenate([Records(_read_shard(path)) for path in self._shards(self.folder / key)]).by_id()

    def rows(self, key: str, ids: Sequence[str]) -> Records:
        """Read the records of some images of a complete entry, in the order of `ids`, whatever the entry's size."""
        wanted = pc.field("id").isin(list(ids))
        parts = [_read_shard(path, filters=wanted) for path in self._shards(self.folder / key)]
        found = Records(pa.concat_tables(parts)).by_id()
        place = {name: row for row, name in enumerate(found.ids)}
        return Records(found.table.take([place[name] for name in ids]))

    def describe(self, key: str) -> dict[str, object]:
        """The description of a complete entry, as given to `commit`."""
        return dict(json.loads((self.folder / key / _ENTRY).read_text()))

    def done(self, key: str) -> set[str]:
        """Ids that an earlier, interrupted run has already written for this entry."""
        ids: set[str] = set()
        for path in self._shards(self._partial(key)):
            ids.update(_read_shard(path, columns=["id"])["id"].to_pylist())
        return ids

    def write_shard(self, key: str, records: Records) -> None:
        """Add records to an entry that is being written.

        Raises:
            Refusal: if the disk is full; what was written before stays and is used by the next run.
        """
        name = uuid.uuid4().hex
        folder = self._partial(key)
        with disk_full_refused(folder):
            try:
                with atomic_write(folder / f"{name}.parquet") as file:
                    pq.write_table(records.table, file)
            except FileNotFoundError:  # the folder was renamed: another run finished the entry, these rows included
                if not self.has(key):
                    raise
                for left in (self.folder / key).glob(f".{name}.*"):
                    left.unlink()

    def commit(self, key: str, ids: Sequence[str], description: Mapping[str, object]) -> None:
        """Make the entry visible; called by one process once all have written their shards.

        Args:
            key: the entry.
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
        missing = set(ids) - self.done(key)
        if missing:
            raise Refusal(
                f"The records in {partial} should hold all {len(ids)} images. Got none for {len(missing)} of them, "
                f"such as {min(missing)}. Run the same command again: it probes only those."
            )
        with disk_full_refused(partial):
            with atomic_write(partial / _ENTRY) as file:
                file.write(json.dumps(dict(description), indent=1, sort_keys=True).encode())
            try:
                os.replace(partial, entry)
            except OSError:
                if self.has(key):
                    raise
                shutil.rmtree(entry, ignore_errors=True)  # what a deletion left that was interrupted
                os.replace(partial, entry)

    def _partial(self, key: str) -> Path:
        return self.folder / f"{key}.partial"

    @staticmethod
    def _shards(folder: Path) -> list[Path]:
        return sorted(folder.glob("*.parquet"))


def _read_shard(path: Path, columns: list[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise Refusal(
            f"{path} should be a readable Parquet file. Got: {error}. Delete the folder {path.parent}; its images will "
            "be probed again."
        ) from error


class StateStore:
    """Tensors by key: `<folder>/<key>.safetensors`, each file whole or not there.

    Args:
        folder: the cache's; made when first written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def has(self, key: str) -> bool:
        """Whether there is a state of that key."""
        return self._path(key).is_file()

    def read(self, key: str) -> dict[str, Tensor]:
        """Read a state, on the CPU.

        Raises:
            Refusal: if the file was damaged.
        """
        path = self._path(key)
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise Refusal(
                f"{path} should be a readable safetensors file. Got: {error}. Delete it; it will be made again from the "
                "training images."
            ) from error

    def write(self, key: str, state: dict[str, Tensor]) -> None:
        """Keep a state; one of the same key is replaced.

        Raises:
            Refusal: if the disk is full.
        """
        path = self._path(key)
        with disk_full_refused(path), atomic_write(path) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a plain table as Parquet, whole or not at all.

    Args:
        path: of the file.
        columns: name to values, all of one length; None where a value does not exist.
    """
    with atomic_write(path) as file:
        pq.write_table(pa.table(dict(columns)), file)


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Read what `write_columns` wrote.

    Raises:
        Refusal: the file is damaged.
    """
    columns: dict[str, list[Any]] = _read_shard(path).to_pydict()
    return columns
