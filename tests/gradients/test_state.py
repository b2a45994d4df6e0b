"""Nothing is left behind: modes, flags, gradients and precisions are what they were, also after an exception."""

from contextlib import nullcontext

import pytest
import torch
from asserts import state_of
from torch import nn

from lightning_gradood.core import Refusal, exact_arithmetic, frozen_network
from lightning_gradood.gradients import squared_gradient_norms

from . import truth
from .block_modules import Net, lin
from .toys import make, pictures


def fails(self, x):
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
        (Net(fails, norm=lambda: nn.BatchNorm2d(3), drop=nn.Dropout, linear=lin(192, 5)).double(), RuntimeError),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(), Refusal),
    ):
        images, before = pictures(2).requires_grad_(), state(awkward(network))
        with nullcontext() if raised is None else pytest.raises(raised):
            squared_gradient_norms(network, images)
        assert state(network) == before
        assert (images.requires_grad, images.grad) == (True, None)
        with frozen_network(network):
            assert not any(module.training for module in network.modules())
            assert not any(parameter.requires_grad for parameter in network.parameters())
        with pytest.raises(ValueError, match="inside"), frozen_network(network):
            raise ValueError("inside")
        assert state(network) == before


def test_what_switches_eval_mode_gradients_or_precision_off_is_lifted_and_restored():
    noisy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    expected = truth.true_norms(noisy.double().eval(), pictures(2))
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            truth.assert_exact(squared_gradient_norms(noisy.train(), pictures(2) * 1), expected)
    single = make("residual", torch.float32)
    plain = squared_gradient_norms(single, pictures(2))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(squared_gradient_norms(single, pictures(2)), plain)
        with torch.inference_mode(), exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.is_grad_enabled() > torch.backends.cudnn.allow_tf32
        with pytest.raises(RuntimeError, match="inside"), exact_arithmetic():
            raise RuntimeError("inside")
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
