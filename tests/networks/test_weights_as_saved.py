"""Weights files as people save them: tied, half, quantised, and several networks in one file, none chosen silently."""

import re

import pytest
import safetensors.torch
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized, load_weights


class Net(nn.Module):
    """A small classifier."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 5)


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self, tied=True):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        if tied:
            self.second.weight = self.first.weight


def state(seed=0, network=Net, **settings):
    torch.manual_seed(seed)
    return network(**settings).state_dict()


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def saved(content, path):
    torch.save(content, path)
    return path


def same(network, tensors):
    own = network.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in own)


@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: Normalized(network, [0.5] * 3, [0.5] * 3)])
def test_tied_weights_load_from_the_name_that_safetensors_keeps(tmp_path, wrap):
    torch.manual_seed(0)
    source, target = Tied(), Tied()
    safetensors.torch.save_model(source, tmp_path / "tied.safetensors")
    assert len(safetensors.torch.load_file(tmp_path / "tied.safetensors")) == 3
    assert load_weights(wrap(target), tmp_path / "tied.safetensors") == []
    assert same(target, source.state_dict())
    assert target.first.weight is target.second.weight


def test_a_network_without_the_tie_gets_both_from_the_files_metadata(tmp_path):
    source, target = Tied(), Tied(tied=False)
    safetensors.torch.save_model(source, tmp_path / "tied.safetensors")
    load_weights(target, tmp_path / "tied.safetensors")
    assert same(target, source.state_dict())


@pytest.mark.parametrize("left_out", ["first.weight", "second.weight"])
def test_one_name_of_a_tied_weight_is_enough_without_metadata_too(tmp_path, left_out):
    source, target = Tied(), Tied()
    stored = {name: tensor for name, tensor in source.state_dict().items() if name != left_out}
    load_weights(target, saved(stored, tmp_path / "tied.pt"))
    assert same(target, source.state_dict())


def test_two_values_of_a_tied_weight_are_refused(tmp_path):
    with pytest.raises(Refusal, match=r"one value of `first.weight` and `second.weight`, which this network shares"):
        load_weights(Tied(), saved(state(network=Tied, tied=False), tmp_path / "untied.pt"))


ONE, OTHER, LARGER = state(1), state(2), state(3, width=8)
SEVERAL = {
    "prefixes": under("student.", ONE) | under("teacher.", OTHER),
    "entries": {
        "model": ONE,
        "model_ema": OTHER,
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []},
    },
    "timm": {"state_dict": ONE, "state_dict_ema": OTHER, "epoch": 3, "arch": "net"},
    "in a Lightning checkpoint": {
        "state_dict": under("net.", ONE) | under("ema.module.", OTHER),
        "pytorch-lightning_version": "2",
    },
    "deeper": {"nets": {"a": under("module.", ONE), "b": under("module.", OTHER)}},
    "at the root": ONE | under("ema.", OTHER),
}
NAMES = {
    "prefixes": ("student", "teacher"),
    "entries": ("model", "model_ema"),
    "timm": ("state_dict", "state_dict_ema"),
    "in a Lightning checkpoint": ("net", "ema.module"),
    "deeper": ("nets.a.module", "nets.b.module"),
    "at the root": ('""', "ema"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_networks_that_fit_are_listed_and_none_is_loaded(tmp_path, kind):
    target = Net()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    names = ", ".join(rf"{re.escape(name)} \(9 tensors\)" for name in NAMES[kind])
    with pytest.raises(
        Refusal, match=rf"`path = \S+several\.pt` with 2: {names}\. Pick one with --model\.weights_prefix"
    ):
        load_weights(target, saved(SEVERAL[kind], tmp_path / "several.pt"))
    assert same(target, before)


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("dot", ["", "."])
def test_a_prefix_picks_one_of_them_without_a_word(tmp_path, kind, dot):
    path = saved(SEVERAL[kind], tmp_path / "several.pt")
    for name, tensors in zip(NAMES[kind], (ONE, OTHER), strict=True):
        target = Net()
        assert load_weights(target, path, name.strip('"') + dot) == []
        assert same(target, tensors)


def test_a_prefix_may_leave_out_what_wraps_the_network_below_it(tmp_path):
    target = Net()
    load_weights(target, saved(SEVERAL["in a Lightning checkpoint"], tmp_path / "several.pt"), "ema")
    assert same(target, OTHER)


@pytest.mark.parametrize("prefix", ["studnet", "model", "student.conv.weight"])
def test_a_prefix_that_is_not_there_is_refused_with_those_that_are(tmp_path, prefix):
    words = rf"`model.weights_prefix = {prefix}` for `path = \S+two\.pt`, whose names start with student, teacher\."
    with pytest.raises(Refusal, match=words):
        load_weights(Net(), saved(SEVERAL["prefixes"], tmp_path / "two.pt"), prefix)


def test_a_prefix_of_another_network_is_refused_as_its_weights_are(tmp_path):
    with pytest.raises(Refusal, match=r"should hold weights of this Net\..*differ in shape"):
        load_weights(Net(), saved(under("student.", ONE) | under("teacher.", LARGER), tmp_path / "two.pt"), "teacher")


@pytest.mark.parametrize(
    "content",
    [
        under("student.", ONE) | under("teacher.", LARGER),
        {"model": ONE, "optimizer": {"state": {}}, "epoch": 7},
        {"net": ONE, "discriminator": LARGER},
        {"state_dict": under("backbone.", ONE) | {"loss.weight": torch.ones(3)}},
    ],
)
def test_the_only_one_that_fits_is_loaded_and_said(tmp_path, content):
    target = Net()
    (note,) = load_weights(target, saved(content, tmp_path / "several.pt"))
    assert same(target, ONE)
    assert re.search(r"The weights are those under \w+ in \S+several\.pt, the only ones there that fit", note)


def test_equal_copies_are_no_choice(tmp_path):
    target = Net()
    load_weights(target, saved(under("student.", ONE) | under("teacher.", ONE), tmp_path / "copies.pt"))
    assert same(target, ONE)


@pytest.mark.parametrize(
    ("stored", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")]
)
def test_other_floating_point_weights_are_cast_and_said(tmp_path, stored, name):
    target = Net()
    path = saved(
        {key: part.to(stored) if part.is_floating_point() else part for key, part in ONE.items()}, tmp_path / "half.pt"
    )
    assert load_weights(target, path) == [f"{path} holds weights in {name}, which are cast to the network's float32."]
    torch.testing.assert_close(target.state_dict()["fc.weight"], ONE["fc.weight"].to(stored).float(), rtol=0, atol=0)


OF_ANOTHER_KIND = {
    "int8": lambda part: part.to(torch.int8),
    "bool": lambda part: part.bool(),
    "complex": lambda part: part.to(torch.complex64),
    "quantised": lambda part: torch.quantize_per_tensor(part, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("cast", OF_ANOTHER_KIND.values(), ids=OF_ANOTHER_KIND)
@pytest.mark.filterwarnings("ignore:.*quant")
def test_numbers_of_another_kind_are_refused(tmp_path, cast):
    target = Net()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    path = saved(ONE | {"fc.weight": cast(ONE["fc.weight"])}, tmp_path / "quantised.pt")
    with pytest.raises(Refusal, match=r"numbers of the network's kind, float32 for `fc.weight`.*which is not cast"):
        load_weights(target, path)
    assert same(target, before)
