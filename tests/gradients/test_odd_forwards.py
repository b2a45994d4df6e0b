"""Forwards that look like a batch and are none, or change from call to call: exact, by whichever way."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.gradients import squared_gradient_norms

from . import truth
from .test_guards import Between
from .toys import make, pictures

UNCOUPLED = {
    "half batches": lambda x: torch.cat([part * 2 for part in x.split(2)]),
    "sorted and back": lambda x: x[x[:, 0].argsort()][x[:, 0].argsort().argsort()],
}


@pytest.mark.parametrize("between", UNCOUPLED)
def test_odd_forwards_are_exact(between: str) -> None:
    network = Between(UNCOUPLED[between])
    truth.assert_exact(squared_gradient_norms(network, pictures(6)), truth.true_norms(network, pictures(6)))


class Routed(nn.Module):
    """Sorts the images before a layer and puts them back after it: row n of the layer is not image n."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(192, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        order = x.flatten(1).sum(1).argsort(descending=True)
        return self.linear(x.flatten(1)[order])[order.argsort()]


class Experts(nn.Module):
    """Sends each image to one of two layers: which operations run depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList([nn.Linear(192, 5), nn.Linear(192, 5)]).double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        first = x.mean(1) > 0.5
        result = x.new_zeros(len(x), 5)
        for chosen, expert in ((first, self.experts[0]), (~first, self.experts[1])):
            if chosen.any():
                result = result.index_put((chosen.nonzero().flatten(),), expert(x[chosen]))
        return result


@pytest.mark.parametrize("network", [Routed, Experts])
def test_networks_that_reorder_the_batch_are_exact(network: type[nn.Module]) -> None:
    built = network()
    for seed in range(3):
        images = pictures(5, seed=seed)
        truth.assert_exact(squared_gradient_norms(built, images), truth.true_norms(built, images))


def test_tokens_as_many_as_images_are_exact() -> None:
    """Sequence-first activations [tokens, N, C]: with N tokens the leading dimension looks like the batch."""
    network = make("sequence_first")
    for number in (2, 3, 5):  # five tokens
        truth.assert_exact(
            squared_gradient_norms(network, pictures(number)), truth.true_norms(network, pictures(number))
        )


class Prompts(nn.Module):
    """Five constant vectors through the same layer as the images: with five images they look like a batch."""

    def __init__(self, number: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.extra = nn.Linear(192, 7).double(), nn.Parameter(torch.rand(1, 7).double())
        self.register_buffer("prompts", torch.rand(number, 192).double())
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        keys = self.linear(self.prompts) + self.extra.expand(self.number, -1)
        return self.linear(x.flatten(1)) @ keys.T


@pytest.mark.parametrize("number", [5, 6])
def test_constants_as_many_as_images_are_exact(number: int) -> None:
    network = Prompts(number)
    for batch in (2, 3, 4, 5, 6, 12):
        truth.assert_exact(squared_gradient_norms(network, pictures(batch)), truth.true_norms(network, pictures(batch)))


def test_a_layer_exchanged_between_calls_is_noticed() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 5)).double()
    squared_gradient_norms(network, pictures(3))
    network[1].forward = lambda x: x @ network[1].weight.T * 3 + network[1].bias
    truth.assert_exact(squared_gradient_norms(network, pictures(3)), truth.true_norms(network, pictures(3)))


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * weight, (gradient * x).sum(0)


class Custom(nn.Module):
    """A parameter in a custom autograd function, which no torch function mode sees; `gate` may close it."""

    def __init__(self, gate: float, twice: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.twice = twice
        self.weight, self.linear, self.gate = nn.Parameter(torch.rand(192)), nn.Linear(192, 5), gate
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = x * self.weight if self.twice else x
        return self.linear(x + F.relu(x.sum(1, keepdim=True) - self.gate) * Scale.apply(x, self.weight))


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("gate", [0.0, 150.0])
def test_custom_function_with_a_parameter_is_exact(gate: float, twice: bool) -> None:
    """With the gate at 150 the first batch, whose pixels add up to 96, has gradient 0 there, and the second has not."""
    network = Custom(gate, twice)
    for images in (pictures(3), pictures(3) + 1):
        truth.assert_exact(squared_gradient_norms(network, images), truth.true_norms(network, images))


def test_inference_tensors_and_constant_first_batch() -> None:
    network = make("residual")
    with torch.inference_mode():
        images = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
        found = squared_gradient_norms(network, images)
    truth.assert_exact(found, truth.true_norms(network, torch.zeros(4, 3, 8, 8, dtype=torch.float64)))
