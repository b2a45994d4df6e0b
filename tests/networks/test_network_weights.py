"""Weights load whatever wrapped them, completely or not at all, and no file ever executes code."""

import os
import pickle
import random
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from lightning_gradood.errors import Refusal
from lightning_gradood.networks import Normalized, load_weights, read_state_dict, resnet20


class Net(nn.Module):
    """Conv, BatchNorm and a last layer: a classifier in small."""

    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.bn(self.conv(images)).mean((2, 3)))


class Executes:
    """A pickle of it runs a command when it is loaded without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _wrapped(network):
    return Normalized(network, mean=[0.5] * 3, std=[0.5] * 3)


def _same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


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


@pytest.mark.parametrize("stored_prefix", ["", "module.", "network.", "model.", "network.network.", "net._orig_mod."])
@pytest.mark.parametrize("wrap", [lambda net: net, _wrapped, lambda net: _wrapped(_wrapped(net))], ids=["0", "1", "2"])
def test_prefixes_of_wrappers_do_not_matter(tmp_path, stored_prefix, wrap):
    source, target = Net(), Net()
    stored = {stored_prefix + key: value for key, value in source.state_dict().items()}
    load_weights(wrap(target), _saved(stored, tmp_path / "weights.pt"))
    assert _same(source, target)


def test_what_a_checkpoint_holds_beside_the_network_is_not_read(tmp_path):
    source, target = Net(), Net()
    stored = {f"network.network.{key}": value for key, value in source.state_dict().items()}
    stored = {"loss.weight": torch.ones(10), "accuracy.total": torch.ones(1), **stored}
    load_weights(_wrapped(target), _saved({"state_dict": stored}, tmp_path / "task.ckpt"))
    assert _same(source, target)


def test_a_network_with_a_wrappers_name_inside_keeps_it(tmp_path):
    source, target = (nn.ModuleDict({"model": nn.Linear(2, 2), "fc": nn.Linear(2, 2)}) for _ in range(2))
    load_weights(target, _saved({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "weights.pt"))
    assert _same(source, target)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_values_are_cast_to_the_networks_dtype(tmp_path, stored, own):
    source, target = Net().to(stored), Net().to(own)
    load_weights(target, _saved(source.state_dict(), tmp_path / "weights.pt"))
    assert {parameter.dtype for parameter in target.parameters()} == {own}
    assert torch.equal(target.fc.weight, source.fc.weight.to(own))


def test_files_without_batch_counters_load(tmp_path):
    source, target = Net(), Net()
    stored = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    load_weights(target, _saved(stored, tmp_path / "old.pt"))
    assert _same(source, target)


def _without(key, state):
    return {name: value for name, value in state.items() if name != key}


OWN = r"(network\.)?"  # the prefix of a wrapped network's names; the file's names stand as they are in the file
ANOTHER = {
    "missing": (
        _without("conv.bias", Net().state_dict()),
        rf"1 of its 9 tensors are missing \(first {OWN}conv\.bias\)\. Build the network that these weights",
    ),
    "unexpected": ({**Net().state_dict(), "extra": torch.ones(1)}, r"in which 1 are unexpected \(first extra\)\."),
    "shapes": (
        Net(width=5).state_dict(),
        rf"7 differ in shape \(first {OWN}conv\.weight: \[5, 3, 3, 3\] in the file, \[4, 3, 3, 3\] in the network\)\.",
    ),
    "all three": (
        {**_without("bn.bias", Net().state_dict()), "bn.scale": torch.ones(4), "conv.bias": torch.ones(3)},
        rf"1 of its 9 tensors are missing \(first {OWN}bn\.bias\), 1 are unexpected \(first bn\.scale\), 1 differ",
    ),
    "another network": (
        {f"module.{key}": value for key, value in resnet20().state_dict().items()},
        rf"8 of its 9 tensors are missing \(first {OWN}conv\.weight, {OWN}conv\.bias, {OWN}bn\.weight\), "
        r"116 are unexpected \(first module\.conv1\.weight, module\.bn1\.weight, module\.bn1\.bias\)",
    ),
    "classes": (
        Net(num_classes=100).state_dict(),
        r"holds weights for 100 classes, the network has 10\. Build the network with `num_classes = 100`, or",
    ),
    "classes, wrapped": (
        {f"module.{key}": value for key, value in Net(num_classes=2).state_dict().items()},
        r"holds weights for 2 classes, the network has 10\.",
    ),
    "classes and more": (
        {**Net(num_classes=100).state_dict(), "conv.bias": torch.ones(3)},
        rf"in which 3 differ in shape \(first {OWN}conv\.bias",
    ),
}


@pytest.mark.parametrize(("stored", "words"), ANOTHER.values(), ids=ANOTHER.keys())
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_another_architecture_are_refused_and_nothing_is_loaded(tmp_path, stored, words, wrapped):
    target = _wrapped(Net()) if wrapped else Net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    path = _saved({key: value + 1 for key, value in stored.items()}, tmp_path / "other.pt")
    start = rf"`path` should hold weights of this {type(target).__name__}\. Got `path = \S+other\.pt`, .*"
    with pytest.raises(Refusal, match=start + words):
        load_weights(target, path)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_a_network_without_weights_refuses_weights(tmp_path):
    with pytest.raises(Refusal, match=r"of this Flatten\. .* in which 1 are unexpected \(first a\)"):
        load_weights(nn.Flatten(), _saved({"a": torch.ones(1)}, tmp_path / "weights.pt"))


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
    with pytest.raises(Refusal, match=r"which asks for Python's \S*Net\b.*; .* save only `network\.state_dict\(\)`"):
        read_state_dict(_saved(Net(), tmp_path / "network.pt"))


def _truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


DAMAGED = {
    "truncated": lambda folder: _truncated(_saved(Net().state_dict(), folder / "a.pt")),
    "truncated safetensors": lambda folder: _truncated(_safetensors(folder / "a.safetensors")),
    "empty": lambda folder: _written(folder / "a.pt", b""),
    "empty safetensors": lambda folder: _written(folder / "a.safetensors", b""),
    "text": lambda folder: _written(folder / "a.pt", b"hello world\n"),
    "picture": lambda folder: _written(folder / "a.pt", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    "torch file named safetensors": lambda folder: _saved(Net().state_dict(), folder / "a.safetensors"),
    "safetensors file named torch": lambda folder: _safetensors(folder / "a.pt"),
}


def _written(path, content):
    path.write_bytes(content)
    return path


def _safetensors(path):
    safetensors.torch.save_file(Net().state_dict(), path)
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
