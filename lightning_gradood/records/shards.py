"""One shard of records: a Parquet file that is named by the digest of its bytes and says which entry it belongs to.

Pages carry checksums, the digest covers footer and metadata too, and the metadata hold the entry's key, the number of
rows and a digest of their ids, so that a file of another entry is recognised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightning_gradood.core import Refusal, atomic_write, parse_json, say, writing_refused

FORMAT = 2
CACHE_FLAG = "--cache_dir"
_ABOUT = b"lightning_gradood"  # metadata key
_SHOWN = 5  # damaged files that are named one by one


class Damaged(Refusal):
    """A file of the cache is not as it was written; `got` is what was found."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(
            f"{path} should be as it was written. Got {got}. Run the same command again: what is damaged will be computed anew."
        )
        self.path, self.got = path, got


def write_shard(folder: Path, key: str, table: pa.Table, flag: str) -> None:
    """Write a shard into a folder, whole or not at all."""
    about = {"format": FORMAT, "key": key, "rows": table.num_rows, "ids": digest_of(table["id"].to_pylist())}
    buffer = pa.BufferOutputStream()
    with writing_refused(folder, flag):
        pq.write_table(table.replace_schema_metadata({_ABOUT: json.dumps(about)}), buffer, write_page_checksum=True)
    content = buffer.getvalue()
    path = folder / f"{hashlib.sha256(content).hexdigest()}.parquet"
    with atomic_write(path, flag) as file:
        file.write(content)


def check_shard(path: Path, key: str) -> list[str]:
    """Compare a shard with its checksums and return its ids."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
                raise Damaged(path, "content that differs from its checksum")
            about = _about(file)
            ids: list[str] = read_table(file, columns=["id"])["id"].to_pylist()
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(path, _first_line(error)) from error
    if about["key"] != key:
        raise Damaged(path, f"a file of another entry, {about['key']}")
    if about["rows"] != len(ids) or about["ids"] != digest_of(ids):
        raise Damaged(path, f"other rows than the {about['rows']} that were written")
    return ids


def read_shard(path: Path, filters: pc.Expression | None = None) -> pa.Table:
    """Read a shard that was checked."""
    try:
        with path.open("rb") as file:
            return read_table(file, filters=filters).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(path, _first_line(error)) from error


def read_table(
    file: BinaryIO | Path, columns: list[str] | None = None, filters: pc.Expression | None = None
) -> pa.Table:
    """Read a Parquet file and verify its pages' checksums."""
    return pq.read_table(file, columns=columns, filters=filters, partitioning=None, page_checksum_verification=True)


def digest_of(names: Iterable[str]) -> str:
    """SHA-256 of names in their order."""
    return hashlib.sha256(json.dumps(list(names), ensure_ascii=True).encode()).hexdigest()


def say_damaged(damages: Sequence[Damaged]) -> None:
    """Print the names of damaged files, which are computed anew."""
    for one in damages[:_SHOWN]:
        say(f"Damaged: {one.path} holds {one.got}.")
    if len(damages) > _SHOWN:
        say(f"Damaged: {len(damages) - _SHOWN} more files.")
    say("What they held is computed anew.")


def _about(file: BinaryIO) -> dict[str, Any]:
    metadata = pq.read_schema(file).metadata or {}
    return dict(parse_json(metadata[_ABOUT]))


def _first_line(error: Exception) -> str:
    return f"what cannot be read ({(str(error) or type(error).__name__).splitlines()[0].rstrip('.')})"
