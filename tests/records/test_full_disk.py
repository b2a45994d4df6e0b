"""A disk that fills while records are written: a sentence, nothing half-written, nothing lost."""

import errno
import os
import uuid
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from record_tables import ids_of, table_of

from lightning_gradood.core import Refusal
from lightning_gradood.records import RecordCache

KEY = "k" * 64
WORDS = "should have room for the records. Got: .*Free some space or name another place with --cache_dir"


@pytest.fixture
def cache(tmp_path):
    """Return a cache that already holds one shard of an entry."""
    cache = RecordCache(tmp_path / "cache")
    cache.write_shard(KEY, table_of(["a", "b"]))
    return cache


def files(cache):
    """Name every file of the cache."""
    return sorted(str(path.relative_to(cache.folder)) for path in cache.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_refused_and_earlier_shards_stay(cache, monkeypatch, number):
    before = files(cache)

    def half_written(table, file):
        file.write(b"PAR1 half of a shard")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq, "write_table", half_written)
    with pytest.raises(Refusal, match=f"The disk of {cache.folder} {WORDS}.*already written is kept"):
        cache.write_shard(KEY, table_of(["c"]))
    assert files(cache) == before
    assert cache.done(KEY) == {"a", "b"}


def test_another_failure_of_the_disk_keeps_its_own_words(cache, monkeypatch):
    def fail(table, where):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="Input/output error") as raised:
        cache.write_shard(KEY, table_of(["c"]))
    assert not isinstance(raised.value, Refusal)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_device_that_is_really_full_is_refused(cache, monkeypatch):
    """The shard's own file leads to /dev/full, so that Arrow meets the operating system's error."""
    before = files(cache)
    monkeypatch.setattr(uuid, "uuid4", lambda: SimpleNamespace(hex="next"))
    (cache.folder / f"{KEY}.partial" / f".next.parquet.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(Refusal, match=WORDS):
        cache.write_shard(KEY, table_of(ids_of(1000)))
    assert files(cache) == before
    assert Path("/dev/full").exists()


def test_a_disk_that_is_full_at_the_end_leaves_the_entry_to_be_finished(cache, monkeypatch):
    sync, before = os.fsync, files(cache)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match=WORDS):
        cache.commit(KEY, ["a", "b"], {})
    assert not cache.has(KEY)
    assert files(cache) == before
    monkeypatch.setattr(os, "fsync", sync)
    cache.commit(KEY, ["a", "b"], {})
    assert cache.read(KEY).ids == ["a", "b"]
