"""Files of weights load whatever wrapped them, completely or not at all; none ever executes code or is chosen silently."""

import itertools
import os
import pickle
import random
import re
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized, load_weights, read_state_dict, resnet20


class Executes:
    """A pickle of it runs a command when it is loaded without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


class Net(nn.Module):
    """A classifier in small."""

    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, num_classes)


class Tied(nn.Module):
    """Two layers that share a weight."""

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
    """A network refuses a file with such words, and is what it was; without a network, the reader refuses it."""
    before = None if network is None else {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(Refusal, match=words) as refusal:
        read_state_dict(path) if network is None else load_weights(network, path, *prefix)
    assert before is None or same(network, before)
    assert "\n" not in str(refusal.value)


ONE, OTHER, LARGER = state(1), state(2), state(3, width=8)


def test_reads_each_kind_of_file(tmp_path):
    tensors = {"a": torch.rand(2, 3), "b": torch.arange(3), "c": torch.rand(2).half()}
    for ending in (".pt", ".pth", ".ckpt", ".safetensors", ".SafeTensors"):
        path = tmp_path / f"weights{ending}"
        safetensors.torch.save_file(tensors, path) if "safe" in ending.lower() else torch.save(tensors, path)
        read = read_state_dict(str(path))
        assert (type(read), read.keys()) == (dict, tensors.keys())
        assert all(torch.equal(read[key], one) and read[key].dtype == one.dtype for key, one in tensors.items())
    checkpoint = {"epoch": 3, "state_dict": OrderedDict(a=torch.ones(1)), "hyper_parameters": {"lr": 0.1}, "loops": {}}
    assert read_state_dict(saved(checkpoint, tmp_path / "last.ckpt")) == {"a": torch.ones(1)}


def test_a_pickle_that_would_execute_code_does_not(tmp_path):
    marker = tmp_path / "executed"
    evil = {"weight": torch.ones(1), "evil": Executes(marker)}
    for content in (evil, {"state_dict": evil}):
        path = saved(content, tmp_path / "evil.pt")
        words = r"without executing code\. Got `path = \S+evil\.pt`, which asks for Python's \w+\.mkdir.*; nothing was"
        assert_refused(words, path)
        assert not marker.exists()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        plain = saved(pickle.dumps(Executes(marker), protocol=protocol), tmp_path / "plain.pt")
        assert_refused(r"Got `path = \S+plain\.pt`, .*nothing (in it )?was executed", plain)
        assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have: the checks above can fail
    assert marker.exists()


def test_files_that_hold_no_named_tensors_are_refused(tmp_path, recwarn):
    path, packed = tmp_path / "a.pt", tmp_path / "a.safetensors"
    torch.save(nn.Linear(9, 9).state_dict(), path)
    safetensors.torch.save_file(nn.Linear(9, 9).state_dict(), packed)
    whole, whole_packed = path.read_bytes(), packed.read_bytes()
    picture, generator = b"\x89PNG\r\n\x1a\n" + bytes(99), random.Random(0)
    damaged = [(path, content) for content in (whole[:500], b"", b"hello world\n", picture, whole_packed)]
    damaged += [(packed, content) for content in (whole_packed[:90], b"", whole)]
    for place, content in damaged:
        words = r"Got `path = \S+a\.\w+`, which cannot be read as one \(\w+.*\): it is truncated, or of .* Copy"
        assert_refused(words, saved(content, place))
    for _ in range(200):
        content = bytes([generator.choice(b"}](.tabcK0q")]) + generator.randbytes(50)
        assert_refused("`path` should be a file of", saved(content, path))
    assert_refused("cannot be read", saved(pickle.dumps({"a": 1}, protocol=4), path))
    assert_refused(r"Got `path = \S+absent\.pt`, which does not exist\. Name a \.pt, \.pth", tmp_path / "absent.pt")
    assert_refused(r"should be a file of weights\. Got `path = \S+`, a folder\. Name", tmp_path)
    whole_network = r"which asks for Python's \S*Linear\b.*; .* save only `network\.state_dict\(\)`"
    assert_refused(whole_network, saved(nn.Linear(2, 2), path))
    cases = [
        ({}, r"which holds an empty dict\. Save `network\.state_dict\(\)`"),
        ({"state_dict": {}}, r"which holds an empty dict"),
        ([torch.ones(1)], r"which holds list\. Save"),
        (torch.ones(1), r"which holds Tensor\. Save"),
        ({"net": {"a": torch.ones(1)}, "epoch": 3}, r"in which 2 of 2 entries are .*, the first 'net' \(dict\)\."),
        ({"a": torch.ones(1), 0: torch.ones(1)}, r"in which 1 of 2 entries are something else, the first 0 \(Tensor\)"),
    ]
    for content, words in cases:
        assert_refused(rf"a file of named tensors\. Got `path = \S+a\.pt`, {words}", saved(content, path))
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
    load_weights(target, saved({k: v for k, v in ONE.items() if "num_batches" not in k}, tmp_path / "old.pt"))
    assert all(torch.equal(target.state_dict()[name], one) for name, one in ONE.items() if "num_batches" not in name)


def test_values_are_cast_to_the_networks_dtype_and_it_is_said(tmp_path):
    path = tmp_path / "weights.pt"
    floating = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for stored, own in itertools.product(floating, (torch.float32, torch.float64)):
        target = Net().to(own)
        content = {name: one.to(stored) if one.is_floating_point() else one for name, one in ONE.items()}
        notes = load_weights(target, saved(content, path))
        assert {parameter.dtype for parameter in target.parameters()} == {own}
        assert torch.equal(target.fc.weight, ONE["fc.weight"].to(stored).to(own))
        names = (str(dtype).removeprefix("torch.") for dtype in (stored, own))
        said = "{} holds weights in {}, which are cast to the network's {}.".format(path, *names)
        assert notes == ([] if stored == own else [said])


OWN = r"(network\.)?"  # the prefix of a wrapped network's names; the file's names stand as they are in the file
ANOTHER = [
    (without("conv.bias", ONE), rf"1 of its 9 tensors are missing \(first {OWN}conv\.bias\)\. Build the network that"),
    ({**ONE, "extra": torch.ones(1)}, r"in which 1 are unexpected \(first extra\)\."),
    (state(width=5), rf"7 differ in shape \(first {OWN}conv\.weight: \[5, 3, 3, 3\] in the file, \[4, 3, 3, 3\] in the"),
    ({**without("bn.bias", ONE), "bn.scale": torch.ones(4), "conv.bias": torch.ones(3)},
     rf"1 of its 9 tensors are missing \(first {OWN}bn\.bias\), 1 are unexpected \(first bn\.scale\), 1 differ"),
    (under("module.", resnet20().state_dict()), r"8 of its 9 tensors are missing .* 116 are unexpected \(first module\.conv1"),
    (state(num_classes=100), r"for 100 classes, the network has 10\. Build the network with --model.network.num_classes 100"),
    (under("module.", state(num_classes=2)), r"holds weights for 2 classes, the network has 10\."),
    ({**state(num_classes=100), "conv.bias": torch.ones(3)}, rf"in which 3 differ in shape \(first {OWN}conv\.bias"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*quant")
def test_weights_of_another_architecture_or_kind_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    for (stored, words), target in itertools.product(ANOTHER, (Net(), wrapped(Net()))):
        start = rf"`path` should hold weights of this {type(target).__name__}\. Got `path = \S+other\.pt`, .*"
        assert_refused(start + words, saved(stored, path), target)
    no_weights = r"of this Flatten\. .* in which 1 are unexpected \(first a\)"
    assert_refused(no_weights, saved({"a": torch.ones(1)}, path), nn.Flatten())
    for cast in (
        lambda part: part.to(torch.int8),
        lambda part: part.bool(),
        lambda part: part.to(torch.complex64),
        lambda part: torch.quantize_per_tensor(part, 0.1, 0, torch.qint8),
    ):
        words = r"numbers of the network's kind, float32 for `fc.weight`.*which is not cast"
        assert_refused(words, saved(ONE | {"fc.weight": cast(ONE["fc.weight"])}, path), Net())


def test_tied_weights_need_one_name_and_one_value(tmp_path):
    torch.manual_seed(0)
    source, path, packed = Tied(), tmp_path / "tied.pt", tmp_path / "tied.safetensors"
    safetensors.torch.save_model(source, packed)
    assert len(safetensors.torch.load_file(packed)) == 3
    for wrap in (lambda network: network, wrapped):
        target = Tied()
        assert load_weights(wrap(target), packed) == []
        assert same(target, source.state_dict())
        assert target.first.weight is target.second.weight
    target = Tied(tied=False)
    load_weights(target, packed)
    assert same(target, source.state_dict()), "both from the file's metadata"
    for left_out in ("first.weight", "second.weight"):
        target = Tied()
        load_weights(target, saved(without(left_out, source.state_dict()), path))
        assert same(target, source.state_dict())
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
        for (name, tensors), dot in itertools.product(zip(names, (ONE, OTHER), strict=True), ("", ".")):
            target = Net()
            assert load_weights(target, path, name.strip('"') + dot) == []
            assert same(target, tensors), name
    target = Net()
    load_weights(target, saved(SEVERAL["net", "ema.module"], path), "ema")
    assert same(target, OTHER), "a prefix may leave out what wraps the network below it"
    saved(SEVERAL["student", "teacher"], path)
    for prefix in ("studnet", "model", "student.conv.weight"):
        words = rf"`model.weights_prefix = {prefix}` for `path = \S+several\.pt`, whose names start with student,"
        assert_refused(words, path, Net(), prefix)
    saved(under("student.", ONE) | under("teacher.", LARGER), path)
    assert_refused(r"should hold weights of this Net\..*differ in shape", path, Net(), "teacher")


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
