"""Damaged records are never used: whatever bit flips, each reading equals what was written or is refused, and mended."""

import random
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from record_tables import ids_of, table_of

from lightning_gradood.core import Refusal
from lightning_gradood.records import Damaged, RecordCache, StateStore, read_columns, write_columns

KEY, OTHER = "k" * 64, "o" * 64
IDS = ids_of(9)


@pytest.fixture
def cache(tmp_path):
    """Return a cache with a complete entry of three shards."""
    cache = RecordCache(tmp_path / "cache")
    for start in (0, 3, 6):
        cache.write_shard(KEY, table_of(IDS[start : start + 3], offset=start))
    cache.commit(KEY, IDS, {"probe": "norms"})
    return cache


def shards(cache, key=KEY):
    return sorted((cache.folder / key).glob("*.parquet"))


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_again(cache):
    """Mend, probe what is missing, as a run does, and return what is read then."""
    if cache.mend({KEY: IDS}):
        missing = sorted(set(IDS) - cache.done(KEY))
        assert len(missing) < len(IDS), "whole shards are kept"
        for name in missing:
            cache.write_shard(KEY, table_of([name], offset=IDS.index(name)))
        cache.commit(KEY, IDS, {"probe": "norms"})
    return cache.read(KEY)


def test_400_flipped_bits_are_400_refusals_and_each_is_mended(cache, tmp_path, capsys):
    expected, random_ = cache.read(KEY).table, random.Random(0)
    whole = tmp_path / "whole"
    shutil.copytree(cache.folder, whole)
    paths = [*shards(cache), cache.folder / KEY / "entry.json"]
    for turn in range(400):
        path = paths[turn % 4]
        before = path.read_bytes()
        flip(path, random_.randrange(8 * len(before)))
        with pytest.raises(Damaged, match="should be as it was written"):
            RecordCache(cache.folder).read(KEY)
        if turn % 20 < 4:
            again = read_again(RecordCache(cache.folder))
            assert again.table.equals(expected)
            assert f"Damaged: {path} holds" in capsys.readouterr().err
            shutil.rmtree(cache.folder)
            shutil.copytree(whole, cache.folder)
        else:
            path.write_bytes(before)


def test_a_checksum_that_was_made_to_fit_is_found_by_the_pages(cache, tmp_path):
    """A file that is renamed after its change: the page's own checksum, or the digest of the ids, is what is left."""
    path = tmp_path / "table.parquet"
    write_columns(path, {"value": [1.0, 2.0, 3.0]})
    content = path.read_bytes()
    flip(path, 8 * content.index(b"PAR1", 0) + 8 * 40)
    with pytest.raises(Refusal, match="should be a table as it was written"):
        read_columns(path)


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_truncated_missing_and_foreign_shards_are_mended(cache, keep, capsys):
    expected = cache.read(KEY).table
    first, second, _ = shards(cache)
    first.write_bytes(first.read_bytes()[:keep])
    second.unlink()
    with pytest.raises(Damaged):
        RecordCache(cache.folder).read(KEY)
    cache.mend({KEY: IDS})
    assert len(cache.done(KEY)) == 3
    for name in set(IDS) - cache.done(KEY):
        cache.write_shard(KEY, table_of([name], offset=IDS.index(name)))
    cache.commit(KEY, IDS, {})
    assert cache.read(KEY).table.equals(expected)
    assert "What they held is computed anew." in capsys.readouterr().err


def test_shards_of_another_network_are_not_used(cache):
    """Equal ids, other values, under another key."""
    for start in (0, 3, 6):
        cache.write_shard(OTHER, table_of(IDS[start : start + 3], offset=100))
    cache.commit(OTHER, IDS, {})
    for path in shards(cache):
        path.unlink()
    for path in shards(cache, OTHER):
        shutil.copy(path, cache.folder / KEY)
    with pytest.raises(Damaged):
        cache.read(KEY)
    shutil.rmtree(cache.folder / KEY)
    shutil.copytree(cache.folder / OTHER, cache.folder / KEY)
    with pytest.raises(Damaged, match="the description of another entry"):
        cache.read(KEY)
    assert cache.mend({KEY: IDS})
    assert cache.done(KEY) == set()
    partial = cache.folder / f"{KEY}.partial"
    partial.mkdir(exist_ok=True)
    shutil.copy(shards(cache, OTHER)[0], partial)
    assert cache.done(KEY) == set()
    assert cache.mend({KEY: IDS})
    assert not list(partial.glob("*.parquet"))


def test_an_extra_shard_is_not_read_and_rows_of_other_images_are_removed(cache):
    expected = cache.read(KEY).table
    cache.write_shard(KEY, table_of(["dogs/000"]))
    (extra,) = (cache.folder / f"{KEY}.partial").glob("*.parquet")
    shutil.copy(extra, cache.folder / KEY)
    assert cache.read(KEY).table.equals(expected)
    assert cache.mend({KEY: IDS})
    assert not extra.exists()
    assert read_again(cache).table.equals(expected)


@pytest.mark.parametrize("place", [0, 1, "folder"])
def test_damage_that_cannot_be_set_aside_is_a_sentence(cache, fixed, place):
    damaged, other, _ = shards(cache)
    flip(damaged, 5000)
    fixed(cache.folder / KEY if place == "folder" else (damaged, other)[place])
    with pytest.raises(
        Refusal, match=r"`--cache_dir` should be a place that can be written\. .*Operation not permitted"
    ):
        cache.mend({KEY: IDS})


def test_an_entry_of_other_images_than_wanted_is_mended(cache):
    assert cache.mend({KEY: [*IDS, "cats/new"]})
    assert cache.done(KEY) == set(IDS)


def test_entries_of_an_earlier_version_are_recomputed_with_a_line(cache, capsys):
    entry = cache.folder / KEY
    shutil.rmtree(entry)
    entry.mkdir()
    pq.write_table(table_of(IDS).table, entry / "0123456789abcdef.parquet")
    (entry / "entry.json").write_text('{"probe": "norms"}')
    with pytest.raises(Damaged, match="a file of an earlier version, which kept no checksums"):
        cache.read(KEY)
    assert cache.mend({KEY: IDS})
    assert "of an earlier version" in capsys.readouterr().err
    assert cache.done(KEY) == set()


def test_where_nobody_answers_ask_refuses_and_touches_nothing(cache, capsys):
    path = shards(cache)[0]
    flip(path, 100)
    before = sorted(cache.folder.rglob("*"))
    words = f"Got {path} with content that differs from its checksum. Use --detection.repair auto"
    with pytest.raises(Refusal, match=words):
        RecordCache(cache.folder, repair="ask").mend({KEY: IDS})
    assert sorted(cache.folder.rglob("*")) == before


@pytest.mark.parametrize(("answer", "mended"), [("y\n", True), ("", False), ("no\n", False)])
def test_at_a_terminal_ask_asks(cache, monkeypatch, answer, mended):
    flip(shards(cache)[0], 100)
    monkeypatch.setattr("lightning_gradood.records.shards._somebody_answers", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda: answer, raising=False)
    own = RecordCache(cache.folder, repair="ask")
    if mended:
        assert own.mend({KEY: IDS})
    else:
        with pytest.raises(Refusal, match="Use --detection"):
            own.mend({KEY: IDS})


def test_flipped_bits_of_a_state_are_refused_and_mended(tmp_path, capsys):
    store, random_ = StateStore(tmp_path), random.Random(1)
    store.write(
        KEY, {"means": torch.rand(3, 4), "counts": torch.arange(3), "half": torch.ones(2, dtype=torch.bfloat16)}
    )
    path = tmp_path / f"{KEY}.safetensors"
    whole = path.read_bytes()
    for _ in range(100):
        flip(path, random_.randrange(8 * len(whole)))
        with pytest.raises(Damaged):
            store.read(KEY)
        path.write_bytes(whole)
    shutil.copy(path, tmp_path / f"{OTHER}.safetensors")
    with pytest.raises(Damaged, match="differs from its checksum"):
        store.read(OTHER)
    store.mend(OTHER)
    store.mend(KEY)
    assert store.has(KEY)
    assert not store.has(OTHER)
    assert "Damaged: " in capsys.readouterr().err
