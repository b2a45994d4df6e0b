"""Weights load whatever wrapped them, completely or not at all."""

import pytest
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized, load_weights, resnet20


class Net(nn.Module):
    """Conv, BatchNorm and a last layer: a classifier in small."""

    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.bn(self.conv(images)).mean((2, 3)))


def _wrapped(network):
    return Normalized(network, mean=[0.5] * 3, std=[0.5] * 3)


def _same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def _saved(content, path):
    torch.save(content, path)
    return path


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
        r"holds weights for 100 classes, the network has 10\. Build the network with --model.network.num_classes 100, or",
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
