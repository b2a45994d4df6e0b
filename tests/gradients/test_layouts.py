"""torch's batch norm in an unusual layout, and central differences of the loss as a truth that does not share its fault."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradood.core import frozen_network, probing_state
from lightning_gradood.gradients import AllOnes, engine, squared_gradient_norms

from . import truth
from .block_modules import Net
from .toys import TOYS, make, trained
from .toys import pictures as small_pictures
from .treacherous import pictures

STEP = 1e-6  # below it float64 loses digits of the difference, above it more ReLUs are crossed


def slopes(network, image, directions):
    """Slope of one image's all-ones loss, behind two copies of it, along a direction for each parameter, float64 [L]."""
    network, found = copy.deepcopy(network).double().eval(), []
    with torch.no_grad():
        for parameter, direction in zip(network.parameters(), directions, strict=True):
            kept, values = parameter.clone(), []
            for sign in (1.0, -1.0):
                parameter.copy_(kept + sign * STEP * direction)
                values.append(truth.all_ones(network(torch.cat([image, image]))[:1]))
            parameter.copy_(kept)
            found.append((values[0] - values[1]) / (2 * STEP))
    return torch.stack(found)


def assert_slopes(network, image, norms, tolerance=1e-5):
    """The loss has the slopes of squared norms [L]: along the true gradient its length, along another its share in that."""
    gradients = truth.gradients(network, image)
    lengths = torch.stack([gradient.norm() for gradient in gradients])
    bound = tolerance * lengths + 1e-9 * lengths.max()
    along = slopes(network, image, [g / g.norm().clamp_min(1e-300) for g in gradients])
    assert (along - norms.sqrt()).abs().le(bound).all(), (along - norms.sqrt()).abs().div(bound).max()
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(g.shape, dtype=torch.float64, generator=generator) for g in gradients]
    random = [direction / direction.norm() for direction in random]
    shares = torch.stack([(g * d).sum() for g, d in zip(gradients, random, strict=True)])
    assert (slopes(network, image, random) - shares).abs().le(bound).all()


def tokens(back=False):
    """[N, C, H, W] -> [N, H·W, C], and back again with `back`."""
    if back:
        return Net(lambda self, x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape))
    return Net(lambda self, x: x.flatten(2).transpose(1, 2))


def functional():
    """Batch norm without a module, statistics and weights its own."""
    statistics = {name: lambda: torch.rand(8) + 0.5 for name in ("mean", "variance")}
    run = lambda self, x: F.batch_norm(x, self.mean, self.variance, self.weight, self.bias)  # noqa: E731
    return Net(run, **statistics, weight=(8,), bias=(8,))


def tail():
    return [tokens(), nn.LayerNorm(8), nn.GELU(), Net(lambda self, x: x.mean(1)), nn.Linear(8, 5)]


STRANGE = {
    "gradient": lambda: [nn.BatchNorm2d(8), *tail()],
    "gradient, no affine": lambda: [nn.BatchNorm2d(8, affine=False), *tail()],
    "gradient, functional": lambda: [functional(), *tail()],
    "gradient, instance norm": lambda: [nn.InstanceNorm2d(8, affine=True), nn.ReLU(inplace=True), *tail()],
    "input": lambda: [tokens(True), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)],
    "input and gradient": lambda: [tokens(True), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), *tail()],
}


def strange(name):
    torch.manual_seed(0)
    return trained(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *STRANGE[name]())).double().eval()


def test_batch_norm_in_a_strange_layout_is_exact():
    wrong = {}
    for name in STRANGE:
        network = strange(name)
        for number in (1, 2, 5):
            found = squared_gradient_norms(network, pictures(number))
            wrong[name, number] = truth.excess(found, truth.pair_norms(network, pictures(number)))
        assert_slopes(network, pictures(1), found[0])
        with probing_state(network):  # closed forms of one image, which might take the loop else
            pass_ = engine.forward(network, pictures(1), list(network.parameters()), 1)
            alone = engine.backward(pass_, [AllOnes()])[:, 0]
        wrong[name, "closed forms"] = truth.excess(alone, truth.pair_norms(network, pictures(1)))
    truth.assert_none(wrong)


def test_input_gradients_are_right_while_probing():
    """What attacks and ODIN follow."""
    for name, number in itertools.product(STRANGE, (1, 2)):
        network, x = strange(name), pictures(number).requires_grad_()
        with frozen_network(network):
            (found,) = torch.autograd.grad(truth.all_ones(network(x)[:1]), x)
        pair = torch.cat([x[:1], x[:1]]).detach().requires_grad_()
        (expected,) = torch.autograd.grad(truth.all_ones(network(pair)[:1]), pair)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-15)


def test_torch_still_needs_the_workaround():
    """If this fails, torch has mended its batch norm: take `layouts`, its uses and docs/torch_batch_norm.md out."""
    network, image = strange("gradient"), pictures(1)
    (alone,) = torch.autograd.grad(truth.all_ones(network(image)), network[0].weight)
    assert (alone - truth.gradients(network, image)[0]).abs().max() > 1e-3
    with pytest.raises(AssertionError):  # and finite differences see it
        assert_slopes(network, image, truth.true_norms(network, image)[0])


def test_networks_have_the_slopes_of_their_losses():
    """The truth of every other test, judged by finite differences."""
    cut = {"frozen", "tokens"}  # torch leaves gradients out there on purpose: behind no_grad, and for padding
    for name in sorted(set(TOYS) - cut):
        network, image = make(name), small_pictures(1)
        assert_slopes(network, image, truth.true_norms(network, image)[0])
