"""Nothing is left behind: modes, flags, gradients and precisions are what they were, also after an exception."""

import subprocess
import sys

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


def test_state_is_restored() -> None:
    network = _awkward(make("residual"))
    before = _state(network)
    squared_gradient_norms(network, pictures(2))
    assert _state(network) == before


def test_state_is_restored_when_the_forward_raises() -> None:
    network = _awkward(Fails())
    before = _state(network)
    with pytest.raises(RuntimeError, match="half way"):
        squared_gradient_norms(network, pictures(2))
    assert _state(network) == before
    assert not torch.is_inference_mode_enabled()


def test_train_mode_is_probed_in_eval_mode() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    network.double().eval()
    expected = truth.true_norms(network, pictures(2))
    truth.assert_exact(squared_gradient_norms(network.train(), pictures(2)), expected)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_one_call_works_where_gradients_are_off(context: type) -> None:
    network = make("residual")
    with context():
        found = squared_gradient_norms(network, pictures(2) * 1)
    truth.assert_exact(found, truth.true_norms(network, pictures(2)))


def test_autocast_is_lifted() -> None:
    network = make("residual", torch.float32)
    expected = squared_gradient_norms(network, pictures(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_gradient_norms(network, pictures(2)), expected)


def test_images_keep_their_flags() -> None:
    images = pictures(2).requires_grad_()
    squared_gradient_norms(make("linear"), images)
    assert images.requires_grad
    assert images.grad is None


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


def test_probing_restores_each_module_and_parameter() -> None:
    network = _awkward(make("residual"))
    before = _state(network)
    with frozen_network(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert _state(network) == before
    with pytest.raises(RuntimeError, match="inside"), frozen_network(network):
        raise RuntimeError("inside")
    assert _state(network) == before


def test_importing_the_room_does_not_import_lightning() -> None:
    code = "import sys, lightning_gradood.gradients; sys.exit(any(m.split('.')[0] == 'lightning' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_refusal_leaves_no_trace() -> None:
    network = _awkward(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    before = _state(network)
    with pytest.raises(Refusal):
        squared_gradient_norms(network, pictures(2).float())
    assert _state(network) == before
