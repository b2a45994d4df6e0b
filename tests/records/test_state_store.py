"""What probes learnt, on disk: whole or not there, refused where it was damaged."""

import errno
import os

import pytest
import torch

from lightning_gradood.core import Refusal
from lightning_gradood.records import StateStore

KEY = "k" * 64
STATE = {"layer1/means": torch.rand(3, 4, dtype=torch.float64), "layer1/whitening": torch.rand(6, 4)[:, :2].T}


def test_a_state_comes_back_as_it_was(tmp_path):
    store = StateStore(tmp_path / "cache")
    assert not store.has(KEY)
    store.write(KEY, STATE)
    assert store.has(KEY)
    assert not store.has("other")
    found = store.read(KEY)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) and found[name].dtype == STATE[name].dtype for name in STATE)
    assert os.listdir(tmp_path / "cache") == [f"{KEY}.safetensors"]


def test_a_state_is_replaced_as_a_whole(tmp_path):
    store = StateStore(tmp_path)
    store.write(KEY, STATE)
    store.write(KEY, {"other": torch.ones(1)})
    assert list(store.read(KEY)) == ["other"]


@pytest.mark.parametrize("content", [None, b"", b"half of it"], ids=["missing", "empty", "half"])
def test_what_cannot_be_read_is_refused_with_its_name(tmp_path, content):
    if content is not None:
        (tmp_path / f"{KEY}.safetensors").write_bytes(content)
    with pytest.raises(Refusal, match=f"{KEY}.safetensors should be as it was written. Got .*computed anew"):
        StateStore(tmp_path).read(KEY)


def test_a_full_disk_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        Refusal, match=f"`--cache_dir` should be a place that can be written. Got {tmp_path}.*: No space"
    ):
        StateStore(tmp_path).write(KEY, STATE)
    assert list(tmp_path.iterdir()) == []
