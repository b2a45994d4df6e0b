"""Files of weights of every kind are read, all others refused, and none ever executes code."""

import os
import pickle
import random
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import read_state_dict


class Executes:
    """A pickle of it runs a command when it is loaded without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _saved(content, path):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".safetensors", ".SafeTensors"])
def test_reads_each_kind_of_file(tmp_path, ending):
    tensors = {"a": torch.rand(2, 3), "b": torch.arange(3), "c": torch.rand(2).half()}
    path = tmp_path / f"weights{ending}"
    safetensors.torch.save_file(tensors, path) if "safe" in ending.lower() else torch.save(tensors, path)
    for given in (path, str(path)):
        read = read_state_dict(given)
        assert type(read) is dict
        assert set(read) == set(tensors)
        assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in tensors.items())


def test_reads_the_state_dict_of_a_lightning_checkpoint(tmp_path):
    checkpoint = {"epoch": 3, "state_dict": OrderedDict(a=torch.ones(1)), "hyper_parameters": {"lr": 0.1}, "loops": {}}
    assert read_state_dict(_saved(checkpoint, tmp_path / "last.ckpt")) == {"a": torch.ones(1)}


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_would_execute_code_does_not(tmp_path, nested):
    evil = {"weight": torch.ones(1), "evil": Executes(tmp_path / "executed")}
    path = _saved({"state_dict": evil} if nested else evil, tmp_path / "evil.pt")
    words = r"without executing code\. Got `path = \S+evil\.pt`, which asks for Python's \w+\.mkdir.*; nothing was"
    with pytest.raises(Refusal, match=words):
        read_state_dict(path)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)  # it would have: the check above can fail
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_executes_nothing_either(tmp_path, protocol):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Executes(tmp_path / "executed"), protocol=protocol))
    with pytest.raises(Refusal, match=r"Got `path = \S+evil\.pt`, .*nothing (in it )?was executed"):
        read_state_dict(path)
    assert not (tmp_path / "executed").exists()


def test_the_readers_warnings_are_not_shown_beside_a_refusal(tmp_path, recwarn):
    path = _written(tmp_path / "a.pt", pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(Refusal, match="cannot be read"):
        read_state_dict(path)
    assert not recwarn.list


def test_a_whole_pickled_network_is_refused_with_the_fix(tmp_path):
    with pytest.raises(Refusal, match=r"which asks for Python's \S*Linear\b.*; .* save only `network\.state_dict\(\)`"):
        read_state_dict(_saved(nn.Linear(2, 2), tmp_path / "network.pt"))


def _truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


DAMAGED = {
    "truncated": lambda folder: _truncated(_saved(nn.Linear(9, 9).state_dict(), folder / "a.pt")),
    "truncated safetensors": lambda folder: _truncated(_safetensors(folder / "a.safetensors")),
    "empty": lambda folder: _written(folder / "a.pt", b""),
    "empty safetensors": lambda folder: _written(folder / "a.safetensors", b""),
    "text": lambda folder: _written(folder / "a.pt", b"hello world\n"),
    "picture": lambda folder: _written(folder / "a.pt", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    "torch file named safetensors": lambda folder: _saved(nn.Linear(9, 9).state_dict(), folder / "a.safetensors"),
    "safetensors file named torch": lambda folder: _safetensors(folder / "a.pt"),
}


def _written(path, content):
    path.write_bytes(content)
    return path


def _safetensors(path):
    safetensors.torch.save_file(nn.Linear(9, 9).state_dict(), path)
    return path


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_and_foreign_files_are_refused(tmp_path, make):
    words = r"Got `path = \S+a\.\w+`, which cannot be read as one \(\w+.*\): it is truncated, or of .* Copy"
    with pytest.raises(Refusal, match=words) as refusal:
        read_state_dict(make(tmp_path))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500 + len(str(tmp_path))


def test_random_bytes_are_refused_whatever_the_reader_makes_of_them(tmp_path):
    generator = random.Random(0)
    for _ in range(200):
        content = bytes([generator.choice(b"}](.tabcK0q")]) + generator.randbytes(50)
        with pytest.raises(Refusal, match="`path` should be a file of"):
            read_state_dict(_written(tmp_path / "a.pt", content))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(Refusal, match=r"Got `path = \S+absent\.pt`, which does not exist\. Name a \.pt, \.pth"):
        read_state_dict(tmp_path / "absent.pt")
    with pytest.raises(Refusal, match=r"should be a file of weights\. Got `path = \S+`, a folder\. Name"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, r"which holds an empty dict\. Save `network\.state_dict\(\)`"),
        ({"state_dict": {}}, r"which holds an empty dict"),
        ([torch.ones(1)], r"which holds list\. Save"),
        (torch.ones(1), r"which holds Tensor\. Save"),
        (
            {"net": {"a": torch.ones(1)}, "epoch": 3},
            r"in which 2 of 2 entries are .*, the first 'net' \(dict\)\.",
        ),
        ({"a": torch.ones(1), 0: torch.ones(1)}, r"in which 1 of 2 entries are something else, the first 0 \(Tensor\)"),
    ],
)
def test_files_without_named_tensors_are_refused(tmp_path, content, words):
    with pytest.raises(Refusal, match=rf"`path` should be a file of named tensors\. Got `path = \S+a\.pt`, {words}"):
        read_state_dict(_saved(content, tmp_path / "a.pt"))
