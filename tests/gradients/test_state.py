"""Nothing is left behind: modes, flags, gradients and precisions are what they were, also after an exception."""

from contextlib import nullcontext

import pytest
import torch
from asserts import state_of
from torch import nn

from lightning_gradood.core import Refusal, exact_arithmetic, frozen_network
from lightning_gradood.gradients import squared_gradient_norms

from . import truth
from .toys import make, pictures


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(192, 5)

    def forward(self, x):
        self.drop(self.norm(x))
        raise RuntimeError("half way")


def awkward(network):
    """Train mode in parts, a frozen parameter, a gradient of the user's own."""
    network.train()
    next(iter(network.children())).eval()
    first, *_, last = network.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    return network


def state(network):
    """All that `state_of` tells, and what the gradients hold."""
    return state_of(network), [None if p.grad is None else p.grad.tolist() for p in network.parameters()]


def test_state_is_restored_also_when_something_is_raised():
    for network, raised in (
        (make("residual"), None),
        (Fails().double(), RuntimeError),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(), Refusal),
    ):
        images, before = pictures(2).requires_grad_(), state(awkward(network))
        with nullcontext() if raised is None else pytest.raises(raised):
            squared_gradient_norms(network, images)
        assert state(network) == before
        assert (images.requires_grad, images.grad) == (True, None)
    network = awkward(make("residual"))
    before = state(network)
    with frozen_network(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert state(network) == before
    with pytest.raises(RuntimeError, match="inside"), frozen_network(network):
        raise RuntimeError("inside")
    assert state(network) == before


def test_train_mode_is_probed_in_eval_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    network.double().eval()
    expected = truth.true_norms(network, pictures(2))
    truth.assert_exact(squared_gradient_norms(network.train(), pictures(2)), expected)


def test_what_switches_gradients_or_precision_off_is_lifted():
    network, single = make("residual"), make("residual", torch.float32)
    constant = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    expected, plain = truth.true_norms(network, pictures(2)), squared_gradient_norms(single, pictures(2))
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            found, blank = (
                squared_gradient_norms(network, pictures(2) * 1),
                squared_gradient_norms(network, 1 * constant),
            )
        truth.assert_exact(found, expected)
        truth.assert_exact(blank, truth.true_norms(network, constant))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_gradient_norms(single, pictures(2)), plain)


def test_exact_arithmetic_sets_and_restores_precision():
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.inference_mode(), exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert torch.is_grad_enabled()
        with pytest.raises(RuntimeError, match="inside"), exact_arithmetic():
            raise RuntimeError("inside")
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
