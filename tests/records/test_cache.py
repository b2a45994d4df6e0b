"""Records on disk: an entry is there whole or not at all, whatever is interrupted, raced or full."""

import errno
import hashlib
import json
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


def test_an_entry_is_invisible_until_commit_and_then_whole(cache):
    assert (cache.has(KEY), cache.done(KEY), cache.folder.exists()) == (False, set(), False)
    cache.write_shard(KEY, table_of(["b", "d"]))
    cache.write_shard(KEY, table_of(["a", "c"], offset=5))
    assert not cache.has(KEY)
    with pytest.raises(Refusal, match=re.escape(f"Got `key = {KEY}`. Run `extract` first.")):
        cache.read(KEY)
    cache.commit(KEY, ["a", "b", "c", "d"], {"probe": "norms", "attack": None})
    read = cache.read(KEY)
    assert (read.ids, first(read), read.names("norms")) == (["a", "b", "c", "d"], [5, 0, 6, 1], ["w", "b"])
    assert first(cache.rows(KEY, ["d", "a", "c"])) == [1, 5, 6]
    assert [path.name for path in cache.folder.iterdir()] == [KEY]
    about = json.loads((cache.folder / KEY / "entry.json").read_text())
    assert (about["key"], about["rows"], about["description"]) == (KEY, 4, {"probe": "norms", "attack": None})


def test_a_killed_run_finds_what_it_wrote_and_writes_only_the_rest(cache):
    ids = ids_of(6)
    cache.write_shard(KEY, table_of(ids[:4]))
    (shard,) = (cache.folder / KEY).glob("*.parquet")
    shard.with_name("killed.tmp").write_bytes(shard.read_bytes()[:40])
    later = RecordCache(cache.folder)  # another process, after a kill
    assert later.done(KEY) == set(ids[:4])
    later.write_shard(KEY, table_of(ids[3:], offset=3))  # one of them again: rows written twice are read once
    with pytest.raises(Refusal, match=r"hold all 7 images\. Got none for 1 of them, such as x\. Run the same command"):
        later.commit(KEY, [*ids, "x"], {})
    assert (later.has(KEY), later.done(KEY)) == (False, set(ids))
    later.commit(KEY, ids, {})
    assert first(later.read(KEY)) == [0, 1, 2, 3, 4, 5]
    assert first(RecordCache(cache.folder).read(KEY)) == [0, 1, 2, 3, 4, 5]


def test_writers_that_commit_at_once_leave_one_entry(cache):
    ids, start = ids_of(40), threading.Barrier(8)

    def run(number):
        mine = RecordCache(cache.folder)
        mine.write_shard(KEY, table_of(ids[number::8]))
        start.wait()
        mine.commit(KEY, ids, {"probe": "norms"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert cache.read(KEY).ids == ids
    assert [path.name for path in cache.folder.iterdir()] == [KEY]


def test_an_entry_finished_by_another_run_serves_a_run_that_still_writes(cache):
    for number in range(2):
        cache.write_shard(KEY, table_of(["a"], offset=number))
        RecordCache(cache.folder).commit(KEY, ["a"], {})
        cache.commit(KEY, ["a"], {})
        assert first(cache.read(KEY)) == [0]


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
                lambda: cache.commit(KEY, ["a", "b"], {}),
                lambda: cache.write_state(KEY, {"means": torch.ones(1)}),
            ):
                with pytest.raises(Refusal, match=words):
                    write()
                assert (sorted(cache.folder.rglob("*")), cache.done(KEY), cache.has(KEY)) == (before, {"a", "b"}, False)
    cache.commit(KEY, ["a", "b"], {})
    assert cache.read(KEY).ids == ["a", "b"]
