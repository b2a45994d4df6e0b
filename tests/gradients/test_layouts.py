"""torch's batch norm in an unusual layout, and a truth that does not share its fault."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.core import exact_arithmetic, frozen_network
from lightning_gradood.core.network_state import OrderedBatchNorm, in_order
from lightning_gradood.gradients import AllOnes, engine, squared_gradient_norms

from . import truth
from .differences import assert_slopes
from .test_exactness import torchvision_network
from .toys import TOYS, make, pictures


class Tokens(nn.Module):
    """[N, C, H, W] -> [N, H·W, C], and back again with `back`."""

    def __init__(self, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return tokens.transpose(1, 2).reshape(x.shape) if self.back else tokens


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Functional(nn.Module):
    """Batch norm without a module, statistics and weights its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8))
        self.register_buffer("mean", torch.rand(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias)


def _tail() -> list[nn.Module]:
    return [Tokens(), nn.LayerNorm(8), nn.GELU(), Mean(), nn.Linear(8, 5)]


STRANGE = {
    "gradient": lambda: [nn.BatchNorm2d(8), *_tail()],
    "gradient, no affine": lambda: [nn.BatchNorm2d(8, affine=False), *_tail()],
    "gradient, functional": lambda: [Functional(), *_tail()],
    "gradient, instance norm": lambda: [nn.InstanceNorm2d(8, affine=True), *_tail()],
    "gradient, in-place after it": lambda: [nn.BatchNorm2d(8), nn.ReLU(inplace=True), *_tail()],
    "input": lambda: [Tokens(back=True), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)],
    "input and gradient": lambda: [
        Tokens(back=True),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8),
        *_tail(),
    ],
}


def strange(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *STRANGE[name]())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.double().eval()


def images(number: int) -> Tensor:
    return torch.rand(number, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_batch_norm_in_a_strange_layout_is_exact() -> None:
    wrong = {}
    for name in STRANGE:
        network = strange(name)
        for number in (1, 2, 5):
            found = squared_gradient_norms(network, images(number))
            wrong[name, number] = truth.excess(found, truth.pair_norms(network, images(number)))
        assert_slopes(network, images(1), found[0])
        with exact_arithmetic(), frozen_network(network):  # closed forms of one image, which might take the loop else
            pass_ = engine.forward(network, images(1), list(network.parameters()), 1)
            alone = engine.backward(pass_, [AllOnes()])[:, 0]
        wrong[name, "closed forms"] = truth.excess(alone, truth.pair_norms(network, images(1)))
    truth.assert_none(wrong)


def test_input_gradients_are_right_while_probing() -> None:
    """What attacks and ODIN follow."""
    for name, number in itertools.product(STRANGE, (1, 2)):
        network, x = strange(name), images(number).requires_grad_()
        with frozen_network(network):
            (found,) = torch.autograd.grad(truth.all_ones(network(x)[:1]), x)
        pair = torch.cat([x[:1], x[:1]]).detach().requires_grad_()
        (expected,) = torch.autograd.grad(truth.all_ones(network(pair)[:1]), pair)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-15)


def test_torch_still_needs_the_workaround() -> None:
    """If this fails, torch has mended its batch norm: take `layouts`, its uses and docs/torch_batch_norm.md out."""
    network = strange("gradient")
    assert (truth_alone(network, images(1))[0] - truth.gradients(network, images(1))[0]).abs().max() > 1e-3
    with pytest.raises(AssertionError):  # and finite differences see it
        assert_slopes(network, images(1), truth.true_norms(network, images(1))[0])


def truth_alone(network: nn.Module, image: Tensor) -> list[Tensor]:
    network = copy.deepcopy(network)
    return list(torch.autograd.grad(truth.all_ones(network(image)), list(network.parameters())))


def test_only_what_torch_misreads_is_copied() -> None:
    plain, last = torch.rand(1, 4, 3, 5), torch.rand(1, 4, 3, 5).contiguous(memory_format=torch.channels_last)
    strided = torch.rand(1, 15, 4).transpose(1, 2).unflatten(2, (3, 5))
    assert in_order(plain) is plain
    assert in_order(last) is last
    assert in_order(strided).is_contiguous()
    assert torch.equal(in_order(strided), strided)
    several = torch.rand(2, 15, 4).transpose(1, 2).unflatten(2, (3, 5))
    assert in_order(several) is several
    with OrderedBatchNorm() as ordered:
        F.batch_norm(last, torch.zeros(4), torch.ones(4))
        assert not ordered.met
        F.batch_norm(strided, torch.zeros(4), torch.ones(4))
        assert ordered.met


def test_networks_have_the_slopes_of_their_losses() -> None:
    """The truth of every other test, judged by finite differences."""
    cut = {"frozen", "tokens"}  # torch leaves gradients out there on purpose: behind no_grad, and for padding
    for name in sorted(set(TOYS) - cut):
        network, image = make(name), pictures(1)
        assert_slopes(network, image, truth.true_norms(network, image)[0])
    network, pair = torchvision_network("VisionTransformer")
    assert_slopes(network, pair[:1], squared_gradient_norms(network, pair)[0], 1e-4)


@pytest.mark.slow
def test_a_network_with_shuffled_channels_has_the_slopes_of_its_loss() -> None:
    network, pair = torchvision_network("shufflenet_v2_x0_5")
    assert_slopes(network, pair[:1], squared_gradient_norms(network, pair)[0], 1e-4)
