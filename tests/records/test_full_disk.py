"""A disk that fills while records are written: a sentence, nothing half-written, nothing lost."""

import errno
import os
from pathlib import Path

import pytest
from record_tables import ids_of, table_of

from lightning_gradood.core import Refusal
from lightning_gradood.records import RecordCache

KEY = "k" * 64
WORDS = "`--cache_dir` should be a place that can be written. Got .*: .*Free some space, or name another"


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

    def half_written(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", half_written)
    with pytest.raises(Refusal, match=f"{WORDS}.*what was written before is kept"):
        cache.write_shard(KEY, table_of(["c"]))
    assert files(cache) == before
    assert cache.done(KEY) == {"a", "b"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_lost_disk_is_refused(cache, monkeypatch, number):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Refusal, match=f"{os.strerror(number)}. See whether its disk is still there, or name another"):
        cache.write_shard(KEY, table_of(["c"]))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_device_that_is_really_full_is_refused(cache, monkeypatch):
    """The shard's own file is /dev/full."""
    before = files(cache)
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r": opened(Path("/dev/full") if mode == "xb" else path, mode.replace("x", "w"))
    )
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
