"""What a benchmark's run stores: arrays as they were, the first layer's gradients, and the memory of each probe."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gradood.data import DigitsSource, open_source
from lightning_gradood.experiments.artifacts import RunArtifacts, probe_cost
from lightning_gradood.gradients import AllOnes
from lightning_gradood.networks import CifarResNet, resnet18
from lightning_gradood.probes import GradientProbe
from lightning_gradood.report import first_layer

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


def test_artifacts_are_read_as_they_were_stored(tmp_path):
    stored = RunArtifacts("digest", {"normal": np.eye(2)}, ["x", "y"], {}, {}, {"logits": {"milliseconds": 1.5}})
    RunArtifacts.path(tmp_path).write_bytes(stored.to_bytes())
    found = RunArtifacts.read(tmp_path)
    np.testing.assert_array_equal(found.norms["normal"], np.eye(2))
    assert vars(found) | {"norms": None} == vars(stored) | {"norms": None}


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
