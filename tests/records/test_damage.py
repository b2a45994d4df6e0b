"""Damaged records are never used: whatever bit flips, each reading equals what was written or is refused, and mended."""

import random
import shutil

import pytest
import torch
from record_tables import KEY, OTHER, ids_of, table_of

from lightning_gradood.core import Refusal
from lightning_gradood.records import Damaged, RecordCache, read_rows, write_rows

IDS = ids_of(9)


def write(cache, key=KEY, offset=0):
    for start in (0, 3, 6):
        cache.write_shard(key, table_of(IDS[start : start + 3], offset=start + offset))


@pytest.fixture
def cache(tmp_path):
    cache = RecordCache(tmp_path / "cache")
    write(cache)
    return cache


def shards(cache, key=KEY):
    return sorted((cache.folder / key).glob("*.parquet"))


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_again(cache):
    """Mend, probe what is missing, as a run does, and return what is read then."""
    if cache.mend([KEY]):
        missing = sorted(set(IDS) - cache.done(KEY))
        assert len(missing) <= 6, "whole shards are kept"
        for name in missing:
            cache.write_shard(KEY, table_of([name], offset=IDS.index(name)))
    return cache.read(KEY, IDS).table


def test_400_flipped_bits_and_what_is_truncated_or_gone_are_refusals_and_each_is_mended(cache, tmp_path, capsys):
    expected, random_ = cache.read(KEY, IDS).table, random.Random(0)
    whole = tmp_path / "whole"
    shutil.copytree(cache.folder, whole)
    paths = shards(cache)

    def damaged_is_mended(path):
        assert read_again(RecordCache(cache.folder)).equals(expected)
        assert f"Damaged: {path} holds" in capsys.readouterr().err
        shutil.rmtree(cache.folder)
        shutil.copytree(whole, cache.folder)

    for turn in range(400):
        path = paths[turn % 3]
        before = path.read_bytes()
        flip(path, random_.randrange(8 * len(before)))
        with pytest.raises(Damaged, match="should be as it was written"):
            RecordCache(cache.folder).read(KEY, IDS)
        if turn % 80 < 3:  # each file five times
            damaged_is_mended(path)
        else:
            path.write_bytes(before)
    for keep in (0, 10, -1):
        paths[0].write_bytes(paths[0].read_bytes()[:keep])
        paths[1].unlink()  # which is missing, and not damaged
        with pytest.raises(Damaged):
            RecordCache(cache.folder).read(KEY, IDS)
        damaged_is_mended(paths[0])


def test_a_file_that_changes_after_it_was_read_is_compared_again(cache):
    cache.read(KEY, IDS)
    flip(shards(cache)[0], 5000)
    with pytest.raises(Damaged, match="differs from its checksum"):
        cache.read(KEY, IDS)


def test_a_table_outside_the_cache_is_compared_with_its_pages_checksums(tmp_path):
    path = tmp_path / "table.parquet"
    write_rows([{"value": value} for value in (1.0, 2.0, 3.0)], {"value": float}, path)
    flip(path, 8 * path.read_bytes().index(b"PAR1", 0) + 8 * 40)
    with pytest.raises(Refusal, match="should be a readable table"):
        read_rows(path)


def test_shards_of_another_network_are_not_used(cache):
    write(cache, OTHER, offset=100)
    shutil.rmtree(cache.folder / KEY)
    shutil.copytree(cache.folder / OTHER, cache.folder / KEY)
    with pytest.raises(Damaged, match="or is of another entry"):
        cache.read(KEY, IDS)
    assert cache.mend([KEY])
    assert (cache.done(KEY), list((cache.folder / KEY).iterdir())) == (set(), [])


@pytest.mark.parametrize("place", ["shard", "folder"])
def test_damage_that_cannot_be_deleted_is_a_sentence(cache, fixed, place):
    damaged, *_ = shards(cache)
    flip(damaged, 5000)
    fixed(damaged if place == "shard" else cache.folder / KEY)
    with pytest.raises(Refusal, match=r"`--cache_dir` should be a place that can be written\. .*not permitted"):
        cache.mend([KEY])


def test_what_probes_learnt_comes_back_as_it_was_and_flipped_bits_are_refused_and_mended(tmp_path, capsys):
    cache, random_ = RecordCache(tmp_path), random.Random(1)
    state = {"means": torch.rand(3, 4), "counts": torch.arange(3), "half": torch.ones(2).bfloat16()}
    state |= {"layer1/means": torch.rand(3, 4, dtype=torch.float64), "layer1/whitening": torch.rand(6, 4)[:, :2].T}
    cache.write_state(KEY, state)
    found = cache.read_state(KEY)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)
    (path,) = (tmp_path / KEY).iterdir()
    whole = path.read_bytes()
    for content in (*[whole] * 100, b"half of it", None):
        path.unlink() if content is None else path.write_bytes(content)
        if content == whole:
            flip(path, random_.randrange(8 * len(whole)))
        with pytest.raises(Damaged, match=f"{KEY}.* should be as it was written. Got .*computed anew"):
            cache.read_state(KEY)
    path.write_bytes(whole)
    shutil.copytree(tmp_path / KEY, tmp_path / OTHER)
    with pytest.raises(Damaged, match="or is of another entry"):
        cache.read_state(OTHER)
    assert cache.mend([OTHER, KEY])
    assert (cache.has_state(KEY), cache.has_state(OTHER)) == (True, False)
    assert "Damaged: " in capsys.readouterr().err
