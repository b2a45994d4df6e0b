"""Records on disk: an entry is there whole or not at all, whatever is interrupted, raced or damaged."""

import json
import os
import re
import threading

import pytest
from record_tables import ids_of, table_of

from lightning_gradood.core import Refusal
from lightning_gradood.records import RecordCache, Records

KEY = "k" * 64


@pytest.fixture
def cache(tmp_path):
    """Return a cache in a folder that does not exist yet."""
    return RecordCache(tmp_path / "deep" / "cache")


def shards(cache, key=KEY):
    """List the shards of an entry that is being written."""
    return sorted((cache.folder / f"{key}.partial").glob("*.parquet"))


def test_constructing_and_asking_write_nothing(cache):
    assert not cache.has(KEY)
    assert cache.done(KEY) == set()
    assert not cache.folder.exists()


def test_an_entry_is_invisible_until_commit_and_then_whole(cache):
    cache.write_shard(KEY, table_of(["b", "d"]))
    cache.write_shard(KEY, table_of(["a", "c"], offset=5))
    assert not cache.has(KEY)
    with pytest.raises(Refusal, match=re.escape(f"Got `key = {KEY}`. Run `extract` first.")):
        cache.read(KEY)
    cache.commit(KEY, ["a", "b", "c", "d"], {"probe": "norms"})
    assert cache.has(KEY)
    read = cache.read(KEY)
    assert read.ids == ["a", "b", "c", "d"]
    assert read.probe("norms")[:, 0].tolist() == [5, 0, 6, 1]
    assert read.names("norms") == ["w", "b"]
    assert cache.describe(KEY) == {"probe": "norms"}
    assert [path.name for path in cache.folder.iterdir()] == [KEY]


def test_a_killed_run_finds_what_it_wrote_and_writes_only_the_rest(cache):
    ids = ids_of(6)
    cache.write_shard(KEY, table_of(ids[:4]))
    later = RecordCache(cache.folder)  # another process, after a kill
    assert later.done(KEY) == set(ids[:4])
    later.write_shard(KEY, table_of(ids[4:], offset=4))
    later.commit(KEY, ids, {})
    assert later.read(KEY).probe("norms")[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_rows_written_twice_are_read_once(cache):
    cache.write_shard(KEY, table_of(["a", "b"]))
    cache.write_shard(KEY, table_of(["b", "c"], offset=1))
    cache.commit(KEY, ["a", "b", "c"], {})
    assert cache.read(KEY).ids == ["a", "b", "c"]
    assert cache.read(KEY).probe("norms")[:, 0].tolist() == [0, 1, 2]


def test_commit_refuses_missing_images_and_leaves_the_entry_to_be_continued(cache):
    cache.write_shard(KEY, table_of(["a", "b"]))
    with pytest.raises(
        Refusal, match=r"hold all 4 images. Got none for 2 of them, such as c. Run the same command again"
    ):
        cache.commit(KEY, ["a", "b", "d", "c"], {})
    assert not cache.has(KEY)
    assert cache.done(KEY) == {"a", "b"}


def test_leftovers_of_a_write_that_was_killed_are_never_read(cache):
    cache.write_shard(KEY, table_of(["a"]))
    whole = shards(cache)[0].read_bytes()
    (cache.folder / f"{KEY}.partial" / "killed.tmp").write_bytes(whole[:40])
    assert cache.done(KEY) == {"a"}
    cache.commit(KEY, ["a"], {})
    assert cache.read(KEY).ids == ["a"]


def test_writers_that_commit_at_once_leave_one_entry(cache):
    ids = ids_of(40)
    others = [RecordCache(cache.folder) for _ in range(8)]
    start, errors = threading.Barrier(len(others)), []

    def run(number, mine):
        try:
            mine.write_shard(KEY, table_of(ids[number::8], offset=0))
            start.wait()
            mine.commit(KEY, ids, {"probe": "norms"})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert cache.read(KEY).ids == ids
    assert [path.name for path in cache.folder.iterdir()] == [KEY]


def test_an_entry_finished_by_another_run_serves_a_run_that_still_writes(cache, monkeypatch):
    """The other run commits, which renames the folder, between the writing of a shard and its own rename."""
    cache.write_shard(KEY, table_of(["a"]))
    sync = os.fsync

    def sync_then_lose_the_race(descriptor):
        sync(descriptor)
        monkeypatch.setattr(os, "fsync", sync)
        RecordCache(cache.folder).commit(KEY, ["a"], {})

    monkeypatch.setattr(os, "fsync", sync_then_lose_the_race)
    cache.write_shard(KEY, table_of(["a"], offset=1))
    cache.write_shard(KEY, table_of(["a"]))
    cache.commit(KEY, ["a"], {})
    assert cache.read(KEY).ids == ["a"]
    assert [path.name for path in cache.folder.iterdir()] == [KEY]
    assert not list((cache.folder / KEY).glob(".*"))


def test_an_entry_finished_by_another_run_in_the_middle_of_commit_is_taken(cache, monkeypatch):
    cache.write_shard(KEY, table_of(["a"]))
    publish = cache._publish

    def lose_the_race(key, *others):
        RecordCache(cache.folder).commit(key, ["a"], {})
        publish(key, *others)

    monkeypatch.setattr(cache, "_publish", lose_the_race)
    cache.commit(KEY, ["a"], {})
    assert cache.read(KEY).ids == ["a"]


def test_what_is_left_of_a_deleted_entry_does_not_bar_a_new_one(cache):
    cache.write_shard(KEY, table_of(["a"]))
    cache.commit(KEY, ["a"], {})
    (cache.folder / KEY / "entry.json").unlink()  # a deletion that was interrupted
    assert not cache.has(KEY)
    cache.write_shard(KEY, table_of(["a"], offset=3))
    cache.commit(KEY, ["a"], {})
    assert cache.read(KEY).probe("norms")[:, 0].tolist() == [3]


def test_the_description_lies_beside_the_shards_as_json(cache):
    cache.write_shard(KEY, table_of(["a"]))
    cache.commit(KEY, ["a"], {"weights": "ab12", "attack": None})
    about = json.loads((cache.folder / KEY / "entry.json").read_text())
    assert about["description"] == {"weights": "ab12", "attack": None}
    assert (about["key"], about["rows"]) == (KEY, 1)
    assert about["shards"] == [path.name for path in (cache.folder / KEY).glob("*.parquet")]


def test_many_shards_are_read_as_one_table(cache):
    ids = ids_of(30)
    for start in range(0, 30, 7):
        cache.write_shard(KEY, table_of(ids[start : start + 7], offset=start))
    cache.commit(KEY, ids, {})
    read = cache.read(KEY)
    assert isinstance(read, Records)
    assert read.probe("norms")[:, 0].tolist() == list(range(30))
