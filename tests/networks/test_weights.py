"""Files of weights load whatever wrapped them, completely or not at all; none ever executes code or is chosen silently."""

import argparse
import gzip
import itertools
import os
import pickle
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized, load_weights, resnet18, resnet20


class Executes:
    """A pickle of it runs a command when it is loaded without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, num_classes)


class Tied(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        if tied:
            self.second.weight = self.first.weight


def wrapped(network):
    return Normalized(network, mean=[0.5] * 3, std=[0.5] * 3)


def state(seed=0, network=Net, **settings):
    torch.manual_seed(seed)
    return network(**settings).state_dict()


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def without(key, tensors):
    return {name: tensor for name, tensor in tensors.items() if name != key}


def saved(content, path):
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return path


def same(network, tensors):
    own = network.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in own)


def assert_refused(words, path, network=None, *prefix):
    """A network refuses a file with such words, and is what it was."""
    network = Net() if network is None else network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(Refusal, match=words) as refusal:
        load_weights(network, path, *prefix)
    assert same(network, before)
    assert "\n" not in str(refusal.value)


ONE, OTHER, LARGER = state(1), state(2), state(3, width=8)


def test_reads_each_kind_of_file(tmp_path):
    for ending in (".pt", ".pth", ".ckpt", ".safetensors", ".SafeTensors"):
        path, target = tmp_path / f"weights{ending}", Net()
        safetensors.torch.save_file(ONE, path) if "safe" in ending.lower() else torch.save(ONE, path)
        assert load_weights(target, str(path)) == []
        assert same(target, ONE), ending
    checkpoint = {"epoch": 3, "state_dict": OrderedDict(OTHER), "hyper_parameters": {"lr": 0.1}, "loops": {}}
    assert load_weights(target, saved(checkpoint, tmp_path / "last.ckpt")) == []
    assert same(target, OTHER)


class ConfigDict(dict):
    pass


class ConfigList(list):
    pass


class Sets:
    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        os.mkdir(state["marker"])


class Calls(Executes):
    def __reduce__(self):
        return getattr, (str(self.marker), "upper")


def test_what_training_checkpoints_carry_beside_tensors_is_left_out_and_never_built(tmp_path, capsys):
    marker = tmp_path / "executed"
    passengers = (
        argparse.Namespace(lr=0.1, out=tmp_path), np.float64(3), np.ones(2), ConfigDict(a=ConfigDict(b=1)), ConfigList([1, 2]),
        OmegaConf.create({"a": {"b": [1]}}), Sets(marker), Calls(marker), {"deep": [Sets(marker)]},
    )  # fmt: skip
    for passenger in passengers:
        target = Net()
        (note,) = load_weights(target, saved({"model": ONE, "args": passenger}, tmp_path / "train.pth"))
        assert same(target, ONE)
        assert "under model" in note
        assert "left out" in "".join(capsys.readouterr()) or passenger is passengers[-1]  # said once for a class
    load_weights(target, saved(ConfigDict(OTHER), tmp_path / "train.pth"))
    assert same(target, OTHER), "a subclass of dict holds tensors as a dict does"
    assert not marker.exists()
    marker.mkdir()
    with pytest.raises(FileExistsError):  # it would have
        torch.load(saved([Sets(marker)], tmp_path / "sets.pt"), weights_only=False)


def test_a_profilers_counts_and_sparse_tensors_are_no_other_architecture(tmp_path):
    counts = {f"{module}total_{what}": torch.zeros(1) for module in ("", "conv.", "fc.") for what in ("ops", "params")}
    for content in (ONE | counts, ONE | {"fc.weight": ONE["fc.weight"].to_sparse()}):
        target = Net()
        load_weights(target, saved(content, tmp_path / "weights.pt"))
        assert same(target, ONE)


def test_files_of_another_kind_are_called_what_they_are(tmp_path):
    def archive(path, name):  # with the names that `torch.export.save` and `torch.jit.save` write
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"net/{name}", "x")

    for write, words in (
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "is a Git LFS pointer"),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE html>"), "is a web page"),
        (lambda path: path.write_bytes(gzip.compress(b"a")), "is compressed by gzip"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "holds NumPy arrays"),
        (
            lambda path: np.savez(str(path.with_suffix(".npz")), a=np.ones(3)) or path.with_suffix(".npz").rename(path),
            "holds NumPy arrays",
        ),
        (lambda path: archive(path, "archive_format"), "is an exported program"),
        (lambda path: archive(path, "code/linear.py"), "is a TorchScript archive"),
    ):
        path = tmp_path / f"{len(words)}.pt2"
        write(path)
        assert_refused(rf"Got `path = \S+\.pt2`, which {words}", path)


def test_a_pickle_that_would_execute_code_does_not(tmp_path):
    marker = tmp_path / "executed"
    path = saved({"state_dict": {"weight": torch.ones(1), "evil": Executes(marker)}}, tmp_path / "evil.pt")
    assert_refused(r"without executing code\. Got `path = \S+evil\.pt`, which asks for Python's \w+\.mkdir", path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        plain = saved(pickle.dumps(Executes(marker), protocol=protocol), tmp_path / "plain.pt")
        assert_refused(r"Got `path = \S+plain\.pt`, .*nothing (in it )?was executed", plain)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have: the checks above can fail
    assert marker.exists()


def test_files_that_hold_no_named_tensors_are_refused(tmp_path, recwarn):
    path, packed = tmp_path / "a.pt", tmp_path / "a.safetensors"
    torch.save(ONE, path)
    safetensors.torch.save_file(ONE, packed)
    whole, whole_packed = path.read_bytes(), packed.read_bytes()
    damaged = [(path, content) for content in (whole[:500], b"", b"hello world\n", b"\x89PNG\r\n\x1a\n", whole_packed)]
    damaged += [(packed, content) for content in (whole_packed[:90], b"", whole)]
    for place, content in damaged:
        words = r"Got `path = \S+a\.\w+`, which cannot be read as one \(\w+.*\): it is truncated, or of .* Copy"
        assert_refused(words, saved(content, place))
    assert_refused(r"Got `path = \S+absent\.pt`, which does not exist\. Name a \.pt, \.pth", tmp_path / "absent.pt")
    assert_refused(r"should be a file of weights\. Got `path = \S+`, a folder\. Name", tmp_path)
    whole_network = r"which asks for Python's \S*Linear\b.*; .* save only `network\.state_dict\(\)`"
    assert_refused(whole_network, saved(nn.Linear(2, 2), path))
    for content in ({}, {"state_dict": {}}, [torch.ones(1)], torch.ones(1), {"a": torch.ones(1), 0: torch.ones(1)}):
        words = rf"a file of named tensors\. Got `path = \S+a\.pt`, which holds {type(content).__name__} without such a"
        assert_refused(words, saved(content, path))
    assert not recwarn.list, "the readers' warnings are not shown beside a refusal"


def test_prefixes_of_wrappers_do_not_matter(tmp_path):
    prefixes = ("", "module.", "network.", "model.", "network.network.", "net._orig_mod.")
    wraps = (lambda network: network, wrapped, lambda network: wrapped(wrapped(network)))
    for prefix, wrap in itertools.product(prefixes, wraps):
        target = Net()
        load_weights(wrap(target), saved(under(prefix, ONE), tmp_path / "weights.pt"))
        assert same(target, ONE), prefix
    beside = {"loss.weight": torch.ones(10), "accuracy.total": torch.ones(1), **under("network.network.", OTHER)}
    load_weights(wrapped(target), saved({"state_dict": beside}, tmp_path / "task.ckpt"))
    assert same(target, OTHER)
    source, target = (nn.ModuleDict({"model": nn.Linear(2, 2), "fc": nn.Linear(2, 2)}) for _ in range(2))
    load_weights(target, saved(under("module.", source.state_dict()), tmp_path / "weights.pt"))
    assert same(target, source.state_dict()), "a wrapper's name inside the network stays"
    target = Net()
    load_weights(target, saved(without("bn.num_batches_tracked", ONE), tmp_path / "old.pt"))
    assert torch.equal(target.bn.weight, ONE["bn.weight"])


def test_openood_s_checkpoints_load_into_torchvision_s_layout(tmp_path):
    source, target = resnet18(), resnet18()
    stored = {name.replace("downsample", "shortcut"): tensor for name, tensor in source.state_dict().items()}
    assert sum("layer2.0.shortcut.1." in name for name in stored) == 5
    torch.save(stored, tmp_path / "best.ckpt")
    assert load_weights(Normalized(target, [0.5] * 3, [0.5] * 3), tmp_path / "best.ckpt") == []
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(source.eval()(images), target.eval()(images))


def test_values_are_cast_to_the_networks_dtype(tmp_path):
    floating = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for stored, own in itertools.product(floating, (torch.float32, torch.float64)):
        target = Net().to(own)
        content = {name: one.to(stored) if one.is_floating_point() else one for name, one in ONE.items()}
        assert load_weights(target, saved(content, tmp_path / "weights.pt")) == []
        assert {parameter.dtype for parameter in target.parameters()} == {own}
        assert torch.equal(target.fc.weight, ONE["fc.weight"].to(stored).to(own))


OWN = r"(network\.)?"  # the prefix of a wrapped network's names; the file's names stand as they are in the file
ANOTHER = [
    (without("conv.bias", ONE), rf"1 of its 9 tensors are missing \(first {OWN}conv\.bias\)\. Build the network that"),
    ({**ONE, "extra": torch.ones(1)}, r"in which 1 are unexpected \(first extra\)\."),
    (state(width=5), rf"7 differ in shape \(first {OWN}conv\.weight: \[5, 3, 3, 3\] in the file, \[4, 3, 3, 3\] in the"),
    ({**without("bn.bias", ONE), "bn.scale": torch.ones(4), "conv.bias": torch.ones(3)},
     rf"1 of its 9 tensors are missing \(first {OWN}bn\.bias\), 1 are unexpected \(first bn\.scale\), 1 differ"),
    (under("module.", resnet20().state_dict()), r"8 of its 9 tensors are missing .* 116 are unexpected \(first module\.conv1"),
    (state(num_classes=100), rf"2 differ in shape \(first {OWN}fc\.weight: \[100, 4\] in the file, \[10, 4\] in the network\)"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*quant")
def test_weights_of_another_architecture_or_kind_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    for (stored, words), target in itertools.product(ANOTHER, (Net(), wrapped(Net()))):
        start = r"`path` should hold weights of this Net\. Got `path = \S+other\.pt`, .*"
        assert_refused(start + words, saved(stored, path), target)
    weight = ONE["fc.weight"]
    quantised = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    for other in (weight.to(torch.int8), weight.bool(), weight.to(torch.complex64), quantised):
        words = r"numbers of the network's type, torch.float32 for `fc.weight`.*which cannot be cast"
        assert_refused(words, saved(ONE | {"fc.weight": other}, path))


def test_tied_weights_need_one_name_and_one_value(tmp_path):
    torch.manual_seed(0)
    source, path, packed = Tied(), tmp_path / "tied.pt", tmp_path / "tied.safetensors"
    safetensors.torch.save_model(source, packed)
    assert len(safetensors.torch.load_file(packed)) == 3  # the file's metadata has the other name
    for target in (Tied(), wrapped(Tied()), Tied(tied=False)):
        assert load_weights(target, packed) == []
        assert same(getattr(target, "network", target), source.state_dict())
    for left_out in ("first.weight", "second.weight"):
        target = Tied()
        load_weights(target, saved(without(left_out, source.state_dict()), path))
        assert same(target, source.state_dict())
        assert target.first.weight is target.second.weight
    untied = saved(state(network=Tied, tied=False), path)
    assert_refused(r"one value of `first.weight` and `second.weight`, which this network shares", untied, Tied())


SEVERAL = {  # names of two networks that fit, and a file of both
    ("student", "teacher"): under("student.", ONE) | under("teacher.", OTHER),
    ("model", "model_ema"): {"model": ONE, "model_ema": OTHER, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    ("state_dict", "state_dict_ema"): {"state_dict": ONE, "state_dict_ema": OTHER, "arch": "net"},
    ("net", "ema.module"): {"state_dict": under("net.", ONE) | under("ema.module.", OTHER), "epoch": 3},
    ("nets.a.module", "nets.b.module"): {"nets": {"a": under("module.", ONE), "b": under("module.", OTHER)}},
    ('""', "ema"): ONE | under("ema.", OTHER),
}


def test_of_several_networks_that_fit_none_is_loaded_without_a_prefix(tmp_path):
    path = tmp_path / "several.pt"
    for names, content in SEVERAL.items():
        saved(content, path)
        listed = ", ".join(rf"{re.escape(name)} \(9 tensors\)" for name in names)
        words = rf"`path = \S+several\.pt` with 2: {listed}\. Pick one with --model\.weights_prefix"
        assert_refused(words, path, Net())
        for name, tensors in zip(names, (ONE, OTHER), strict=True):
            target = Net()
            assert load_weights(target, path, name.strip('"')) == []
            assert same(target, tensors), name
    target = Net()
    load_weights(target, saved(SEVERAL["net", "ema.module"], path), "ema")
    assert same(target, OTHER), "a prefix may leave out what wraps the network below it"
    words = r"`model.weights_prefix = studnet` for `path = \S+several\.pt`, whose names start with student,"
    assert_refused(words, saved(SEVERAL["student", "teacher"], path), Net(), "studnet")


def test_the_only_network_that_fits_is_loaded_and_said(tmp_path):
    path = tmp_path / "several.pt"
    for content in (
        under("student.", ONE) | under("teacher.", LARGER),
        {"model": ONE, "optimizer": {"state": {}}, "epoch": 7},
        {"net": ONE, "discriminator": LARGER},
        {"state_dict": under("backbone.", ONE) | {"loss.weight": torch.ones(3)}},
    ):
        target = Net()
        (note,) = load_weights(target, saved(content, path))
        assert same(target, ONE)
        assert re.search(r"The weights are those under \w+ in \S+several\.pt, the only ones there that fit", note)
    target = Net()
    load_weights(target, saved(under("student.", ONE) | under("teacher.", ONE), path))
    assert same(target, ONE), "equal copies are no choice"
