"""Batch norm of one image in every layout of memory, against the same network with the batch norm spelt out.

For a batch of one, torch 2.15's own backward on a CPU is wrong where the gradient or the input is a transposed tensor and
the other is not, so plain autograd through `F.batch_norm` is no judge here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.core.network_state import exact_arithmetic, frozen_network
from lightning_gradood.gradients import AllOnes, engine

from . import truth
from .toys import pictures, trained


class SpeltOut(nn.Module):
    """A batch norm in eval mode by sums and products, which shares the other one's parameters."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            tensor.view(-1, 1, 1)
            for tensor in (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
        )
        return (x - mean) / (variance + self.norm.eps).sqrt() * weight + bias


class TransposedGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.tokens = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(self.norm(self.conv(x)).flatten(2).transpose(1, 2)).mean(1))


class TransposedInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.conv = nn.Linear(3, 6), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.linear(x.flatten(2).transpose(1, 2))
        return self.head(self.conv(self.norm(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))).tanh().mean((2, 3)))


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("build", [TransposedGradient, TransposedInput])
def test_batch_norm_is_exact_in_every_layout(build: Callable[[], nn.Module], number: int) -> None:
    torch.manual_seed(0)
    network, images = trained(build()).double().eval(), pictures(number)
    with exact_arithmetic(), frozen_network(network):
        pass_ = engine.forward(network, images, list(network.parameters()), 1)
        norms = engine.backward(pass_, [AllOnes()])[:, 0]
    assert not pass_.watch.unknown
    network.norm = SpeltOut(network.norm)
    truth.assert_exact(norms, truth.true_norms(network, images))
