"""Records on disk: an entry is there whole or not at all, whatever is interrupted, raced or full."""

import errno
import hashlib
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from record_tables import KEY, ids_of, table_of

from lightning_gradood.core import Refusal
from lightning_gradood.records import RecordCache, entry_key


@pytest.fixture
def cache(tmp_path):
    return RecordCache(tmp_path / "deep" / "cache")


def first(records):
    return records.probe("norms")[:, 0].tolist()


def test_the_key_changes_with_every_ingredient_and_not_with_their_order():
    ingredients = {"source": "svhn", "attack": None, "probe": {"name": "gradients/all_ones", "version": 1}}
    changed = [ingredients | {name: "another"} for name in ingredients]
    changed += [ingredients | {"probe": ingredients["probe"] | {"version": 2}}]
    assert len({entry_key(one) for one in [ingredients, *changed]}) == len(changed) + 1
    assert entry_key({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()
    with pytest.raises(TypeError, match="not JSON serializable"):  # its default text could hide a difference
        entry_key({"weights": object()})


def test_an_entry_is_read_by_the_ids_that_it_holds_and_what_it_lacks_is_refused(cache):
    assert (cache.done(KEY), cache.folder.exists()) == (set(), False)
    with pytest.raises(Refusal, match=r"hold all 1 images\. Got none for 1 of them, such as a\. Run the same command"):
        cache.read(KEY, ["a"])
    cache.write_shard(KEY, table_of(["b", "d"]))
    cache.write_shard(KEY, table_of(["a", "c"], offset=5))
    read = cache.read(KEY, ["d", "c", "b", "a"])
    assert (read.ids, first(read), read.names("norms")) == (["a", "b", "c", "d"], [5, 0, 6, 1], ["w", "b"])
    assert first(cache.rows(KEY, ["d", "a", "c"])) == [1, 5, 6]
    assert (cache.read(KEY, ["d", "a"]).ids, [path.name for path in cache.folder.iterdir()]) == (["a", "d"], [KEY])


def test_a_killed_run_finds_what_it_wrote_and_writes_only_the_rest(cache):
    ids = ids_of(6)
    cache.write_shard(KEY, table_of(ids[:4]))
    (shard,) = (cache.folder / KEY).glob("*.parquet")
    shard.with_name("killed.tmp").write_bytes(shard.read_bytes()[:40])
    later = RecordCache(cache.folder)  # another process, after a kill
    assert later.done(KEY) == set(ids[:4])
    later.write_shard(KEY, table_of(ids[3:], offset=3))  # one of them again: rows written twice are read once
    with pytest.raises(Refusal, match=r"hold all 7 images\. Got none for 1 of them, such as x\. Run the same command"):
        later.read(KEY, [*ids, "x"])
    assert later.done(KEY) == set(ids)
    assert first(later.read(KEY, ids)) == [0, 1, 2, 3, 4, 5]
    assert first(RecordCache(cache.folder).read(KEY, ids)) == [0, 1, 2, 3, 4, 5]


def test_writers_at_once_leave_one_entry(cache):
    ids, start = ids_of(40), threading.Barrier(8)

    def run(number):
        start.wait()
        RecordCache(cache.folder).write_shard(KEY, table_of(ids[number // 2 :: 4], offset=number // 2))  # each twice

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert cache.read(KEY, ids).ids == ids
    assert [path.name for path in cache.folder.iterdir()] == [KEY]
    assert len(list((cache.folder / KEY).iterdir())) == 4


FAILURES = {
    errno.ENOSPC: "Free some space, or name another.*what was written before is kept",
    errno.ESTALE: "Make it one, or name another",
}


def test_a_full_or_lost_disk_is_refused_and_nothing_is_lost(cache, monkeypatch):
    cache.write_shard(KEY, table_of(["a", "b"]))
    before = sorted(cache.folder.rglob("*"))
    for number, fix in FAILURES.items():

        def fail(_, number=number):
            raise OSError(number, os.strerror(number))

        words = (
            rf"`--cache_dir` should be a place that can be written. Got .*: {re.escape(os.strerror(number))}\. {fix}"
        )
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            for write in (
                lambda: cache.write_shard(KEY, table_of(["c"])),
                lambda: cache.write_state(KEY, {"means": torch.ones(1)}),
            ):
                with pytest.raises(Refusal, match=words):
                    write()
                assert (sorted(cache.folder.rglob("*")), cache.done(KEY)) == (before, {"a", "b"})
    assert cache.read(KEY, ["a", "b"]).ids == ["a", "b"]
