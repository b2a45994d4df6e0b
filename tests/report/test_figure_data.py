"""The arrays that figures need: as they were, the first layer's gradients; and the memory of each probe."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm

from lightning_gradood.data import DigitsSource, open_source
from lightning_gradood.gradients import AllOnes
from lightning_gradood.networks import CifarResNet, resnet18
from lightning_gradood.probes import GradientProbe
from lightning_gradood.report.benchmark import probe_cost
from lightning_gradood.report.figure_data import first_layer
from lightning_gradood.report.run import read_arrays, write_arrays

IMAGES = 8
MEBIBYTE = 2**18  # of float32


def test_the_first_layer_s_gradient_is_plain_autograd_s_and_leaves_the_network_as_it_was():
    source = open_source("normal", DigitsSource(digits=[9]))
    network = CifarResNet(1, 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = first_layer(network, {"normal": source})
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    logits = network.eval()(source.images([len(source) // 2]).float() / 255)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="sum")
    loss.backward()
    ours, plain = found["gradients"]["normal"], network.conv1.weight.grad.numpy()
    # their lengths differ by the reduction over classes, which is the label design's own
    np.testing.assert_allclose(ours / np.linalg.norm(ours), plain / np.linalg.norm(plain), atol=1e-5)
    assert found["name"] == "conv1.weight"
    assert first_layer(torch.nn.Linear(3, 2), {}) == {}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "old weight_norm", "prune"])
def test_the_gradient_is_by_the_weight_that_images_meet_where_it_is_computed_in_each_forward_pass(name):
    source = open_source("normal", DigitsSource(digits=[9]))
    torch.manual_seed(0)
    network = CifarResNet(1, 3).eval()
    normalise = {
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "old weight_norm": old_weight_norm,
        "prune": partial(prune.l1_unstructured, name="weight", amount=0.5),
    }[name]
    normalise(network.conv1)
    network.eval()
    found = first_layer(network, {"normal": source})
    flags = [parameter.requires_grad for parameter in network.parameters()]
    assert flags == [True] * len(flags)
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8))  # pruning and the old weight norm compute their weight in a forward pass
    plain = CifarResNet(1, 3).eval()
    plain.load_state_dict(
        {key: value for key, value in network.state_dict().items() if "conv1" not in key}, strict=False
    )
    state = {key: value for key, value in network.state_dict().items() if key in plain.state_dict()}
    plain.load_state_dict(state | {"conv1.weight": network.conv1.weight.detach()})
    expected = first_layer(plain, {"normal": source})
    np.testing.assert_allclose(found["weights"], expected["weights"], atol=1e-6)
    np.testing.assert_allclose(found["gradients"]["normal"], expected["gradients"]["normal"], atol=1e-5)


def test_arrays_are_read_as_they_were_written_whatever_their_names(tmp_path):
    stored = {"samples": {"places/lsun": np.eye(2), "50 %2F": np.eye(3)}, "layers": np.array(["x", "ü"]), "empty": {}}
    with (tmp_path / "figures.npz").open("wb") as file:
        write_arrays(stored, file)
    found = read_arrays(tmp_path / "figures.npz")
    assert found.keys() == {"samples", "layers"}
    assert found["layers"].tolist() == ["x", "ü"]
    assert {name: len(one) for name, one in found["samples"].items()} == {"places/lsun": 2, "50 %2F": 3}


class Holding:
    """Holds one mebibyte an image, then two, then one again."""

    def __call__(self, network, images):
        first = torch.zeros(len(images), MEBIBYTE)
        second = first + 1
        del first
        return second * 2


def test_memory_is_the_peak_of_what_tensors_hold_at_the_same_time():
    images = torch.zeros(IMAGES, 3, 4, 4)
    cost = probe_cost(Holding(), nn.Identity(), images)
    assert cost["mebibytes"] == pytest.approx(2, abs=0.01)
    assert cost["milliseconds"] > 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):  # another profiler at work
        assert "mebibytes" not in probe_cost(Holding(), nn.Identity(), images)
    network = resnet18(10).eval()
    cost = probe_cost(GradientProbe(AllOnes()), network, torch.rand(IMAGES, 3, 32, 32))
    parameters = sum(parameter.numel() for parameter in network.parameters()) * 4 / 2**20
    assert 1 < cost["mebibytes"] < parameters / 2  # far below that of the gradients themselves
