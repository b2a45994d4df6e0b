"""Nothing is left behind: modes, flags, gradients and precisions are what they were, also after an exception."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, exact_arithmetic, frozen_network
from lightning_gradood.gradients import squared_gradient_norms

from . import truth
from .toys import make, pictures


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.drop(self.norm(x))
        raise RuntimeError("half way")


def _awkward(network: nn.Module) -> nn.Module:
    """Train mode in parts, a frozen parameter, a gradient of the user's own."""
    network.train()
    next(iter(network.children())).eval()
    first, *_, last = network.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    return network


def _state(network: nn.Module) -> list[object]:
    modes = [module.training for module in network.modules()]
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone().tolist()) for p in network.parameters()]
    return [modes, flags, {name: value.tolist() for name, value in network.state_dict().items()}]


def test_state_is_restored_also_when_something_is_raised() -> None:
    for network, images, raised in (
        (make("residual"), pictures(2), None),
        (Fails(), pictures(2), RuntimeError),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), pictures(2).float(), Refusal),
    ):
        network = _awkward(network)
        before = _state(network)
        images = images.requires_grad_()
        with nullcontext() if raised is None else pytest.raises(raised):
            squared_gradient_norms(network, images)
        assert _state(network) == before
        assert not torch.is_inference_mode_enabled()
        assert images.requires_grad
        assert images.grad is None
    network = _awkward(make("residual"))
    before = _state(network)
    with frozen_network(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert _state(network) == before
    with pytest.raises(RuntimeError, match="inside"), frozen_network(network):
        raise RuntimeError("inside")
    assert _state(network) == before


def test_train_mode_is_probed_in_eval_mode() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    network.double().eval()
    expected = truth.true_norms(network, pictures(2))
    truth.assert_exact(squared_gradient_norms(network.train(), pictures(2)), expected)


def test_what_switches_gradients_or_precision_off_is_lifted() -> None:
    network, single = make("residual"), make("residual", torch.float32)
    expected, plain = truth.true_norms(network, pictures(2)), squared_gradient_norms(single, pictures(2))
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            found = squared_gradient_norms(network, pictures(2) * 1)
        truth.assert_exact(found, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_gradient_norms(single, pictures(2)), plain)
    with torch.inference_mode():
        constant = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
        found = squared_gradient_norms(network, constant)
    truth.assert_exact(found, truth.true_norms(network, torch.zeros(4, 3, 8, 8, dtype=torch.float64)))


def test_exact_arithmetic_sets_and_restores_precision() -> None:
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


def test_importing_the_room_does_not_import_lightning() -> None:
    code = "import sys, lightning_gradood.gradients; sys.exit(any(m.split('.')[0] == 'lightning' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
