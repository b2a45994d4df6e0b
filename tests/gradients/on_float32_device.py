"""On a device that has no float64, norms are those of a device that has it, to the rounding of their float32 sums."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from float32_device import without_float64
from torch import Tensor, nn

from lightning_gradood.core import cast_like, has_float64, to_float64, to_float64_device, widest_float_dtype
from lightning_gradood.core.precision import scaled_squares
from lightning_gradood.gradients import (
    AllOnes,
    AllZeros,
    KHot,
    Predicted,
    SecondBest,
    Uniform,
    probe_gradients,
    squared_gradient_norms,
)
from lightning_gradood.gradients.plan import _plans

from .toys import TOYS, make, pictures

DESIGNS = [AllOnes(), AllZeros(), KHot((0, 3)), Predicted(), Predicted(10.0), SecondBest(), Uniform()]
BEYOND = {
    *("recurrent", "stacked_recurrent", "gated_recurrent"),  # torch calls cuDNN's kernels on all but the CPU and MPS
    "tied",  # `Module.to` gives each module a tensor of its own where the backend is in Python
    *("checkpointed", "checkpointed_later"),  # a backend in Python does not survive an exception in a backward pass
}


@pytest.fixture
def device() -> Iterator[torch.device]:
    with without_float64() as device:
        yield device


def assert_same(found: Tensor, truth: Tensor) -> None:
    """|a − b| ≤ 1e-6·b + 1e-12·max b, on the CPU in float64; the latter for entries that are zero but for rounding."""
    assert (found.device.type, found.dtype) == ("cpu", torch.float64)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-12 * float(truth.abs().max()))


def test_the_device_is_one(device: torch.device) -> None:
    ones = torch.ones(3, device=device)
    assert ones.device.type == (ones + 1).device.type == device.type
    for make_float64 in (
        lambda: ones.double(),
        lambda: ones.sum(dtype=torch.float64),
        lambda: torch.zeros(3, dtype=torch.float64, device=device),
        lambda: ones.new_zeros(3, dtype=torch.float64),
        lambda: torch.linalg.vector_norm(ones, dtype=torch.float64),
        lambda: torch.ones(3, dtype=torch.float64).to(device),
        lambda: torch.ones(3, dtype=torch.float64).to(ones),
        lambda: (ones > 0).double(),
    ):
        with pytest.raises(TypeError, match="float64"):
            make_float64()
    with pytest.raises(RuntimeError, match="of the CPU"):
        ones + torch.ones(3)


def test_tensors_go_to_where_float64_is_and_back(device: torch.device) -> None:
    numbers = torch.rand(3, device=device, requires_grad=True)
    assert (has_float64(device), has_float64(torch.device("cpu"))) == (False, True)
    assert (widest_float_dtype(device), widest_float_dtype(torch.device("cpu"))) == (torch.float32, torch.float64)
    assert (to_float64(numbers).device.type, to_float64(numbers).dtype) == ("cpu", torch.float64)
    assert (to_float64_device(numbers).device.type, to_float64_device(numbers).dtype) == ("cpu", torch.float32)
    back = cast_like(to_float64(numbers), numbers)
    assert (back.device, back.dtype) == (numbers.device, torch.float32)
    assert torch.equal(back.cpu(), numbers.cpu())
    (gradient,) = torch.autograd.grad(to_float64(numbers).square().sum(), numbers)
    assert torch.equal(gradient.cpu(), 2 * numbers.detach().cpu())
    plain = torch.rand(3)
    assert to_float64_device(plain) is plain
    assert cast_like(plain, plain) is plain


@pytest.mark.parametrize("name", sorted(set(TOYS) - BEYOND))
def test_toy_network_has_the_norms_of_the_cpu(name: str, device: torch.device) -> None:
    network, images = make(name, torch.float32), pictures(4, torch.float32)
    truth = squared_gradient_norms(network, images)
    there = copy.deepcopy(network).to(device)
    assert_same(squared_gradient_norms(there, images.to(device)), truth)
    (((plan, _),), ((plain, _),)) = (_plans[one].values() for one in (there, network))
    assert (plan.trace, plan.reason) == (plain.trace, plain.reason), "the same way is taken"
    assert_same(squared_gradient_norms(there, images[:1].to(device)), squared_gradient_norms(network, images[:1]))


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_every_label_design_has_the_norms_of_the_cpu(name: str, device: torch.device) -> None:
    network, images = make(name, torch.float32), pictures(3, torch.float32)
    truth, logits = probe_gradients(network, images, DESIGNS)
    norms, found = probe_gradients(copy.deepcopy(network).to(device), images.to(device), DESIGNS)
    assert_same(norms, truth)
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), logits)


@pytest.mark.parametrize("logit", [0.0, 30.0, 90.0, 1000.0])
def test_a_network_that_is_sure_loses_nothing(logit: float, device: torch.device) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 5))
    with torch.no_grad():
        network[3].bias[2] += logit
    truth = squared_gradient_norms(network, pictures(3, torch.float32), DESIGNS)
    found = squared_gradient_norms(network.to(device), pictures(3, torch.float32).to(device), DESIGNS)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 4097, 300_000])
@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
def test_squares_neither_vanish_nor_overflow(width: int, size: float, device: torch.device) -> None:
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(0)) * size
    rows[1] = 0
    squares = scaled_squares(rows.to(device))
    torch.testing.assert_close(squares, rows.double().square().sum(1), rtol=1e-6, atol=0)


def test_squares_of_nothing_and_of_what_is_not_finite(device: torch.device) -> None:
    assert scaled_squares(torch.zeros(2, 0, device=device)).tolist() == [0, 0]
    broken = scaled_squares(torch.tensor([[torch.nan, 1], [torch.inf, 1], [1, 1]]).to(device))
    assert torch.isfinite(broken).tolist() == [False, False, True]
