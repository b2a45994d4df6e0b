"""The memory that a probe is said to need, for readings whose tensors are known."""

import pytest
import torch
from torch import nn

from lightning_gradood.experiments.artifacts import probe_cost
from lightning_gradood.gradients import AllOnes
from lightning_gradood.networks import resnet18
from lightning_gradood.probes import GradientProbe

IMAGES = 8
MEBIBYTE = 2**18  # of float32


class _Holding:
    """Holds one mebibyte an image, then two, then one again."""

    def __call__(self, network, images):
        first = torch.zeros(len(images), MEBIBYTE)
        second = first + 1
        del first
        return second * 2


def test_memory_is_the_peak_of_what_tensors_hold_at_the_same_time():
    cost = probe_cost(_Holding(), nn.Identity(), torch.zeros(IMAGES, 3, 4, 4))
    assert cost["mebibytes"] == pytest.approx(2, abs=0.01)
    assert cost["milliseconds"] > 0


def test_memory_is_left_out_where_another_profiler_is_at_work():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert "mebibytes" not in probe_cost(_Holding(), nn.Identity(), torch.zeros(IMAGES, 3, 4, 4))


def test_memory_of_gradients_stays_below_that_of_the_gradients_themselves():
    network = resnet18(10).eval()
    cost = probe_cost(GradientProbe(AllOnes()), network, torch.rand(IMAGES, 3, 32, 32))
    parameters = sum(parameter.numel() for parameter in network.parameters()) * 4 / 2**20
    assert 1 < cost["mebibytes"] < parameters / 2
