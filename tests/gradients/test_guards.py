"""No silent wrong number: batch-coupled and random networks are refused by name, the rest equals the loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.gradients.plan import plan_for
from lightning_gradood.gradients.state import exact_arithmetic, probing

from . import truth
from .toys import TOYS, make, pictures


class Between(nn.Module):
    """Two linear layers with `between` in the middle."""

    def __init__(self, between: object, hidden: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.between = nn.Linear(192, hidden), nn.Linear(hidden, 5), between
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(torch.tanh(self.first(x.flatten(1)))))  # type: ignore[operator]


class Centre(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


COUPLED = {
    "centred": lambda x: x - x.mean(0),
    "centred by a constant": lambda x: x - x.mean(0).detach(),
    "weakly centred": lambda x: x - 1e-13 * x.mean(0),
    "contrastive": lambda x: F.pad(x @ x.T, (0, 7 - x.shape[0])),
    "attention over the batch": lambda x: torch.softmax(x @ x.T, 1) @ x,
    "shuffled": lambda x: x.flip(0),
}


@pytest.mark.parametrize("between", COUPLED)
def test_batch_coupling_is_refused(between: str) -> None:
    with pytest.raises(
        Refusal,
        match=r"treat the images of a batch independently\. .*first seen (at `last` \(Linear\)|in the gradient)",
    ):
        squared_gradient_norms(Between(COUPLED[between]), pictures(4))


def test_coupling_layer_is_named() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Sequential(nn.ReLU(), Centre()), nn.Linear(7, 5))
    with pytest.raises(Refusal, match=r"depends on the other images of the batch, first seen at `2\.1` \(Centre\)"):
        squared_gradient_norms(network.double(), pictures(4))


@pytest.mark.parametrize("number", [1, 4])
def test_batch_norm_without_running_statistics_is_refused(number: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    with pytest.raises(
        Refusal, match=r"batch norm without running statistics at `1`\. Build it with track_running_stats"
    ):
        squared_gradient_norms(network.double(), pictures(number))


def test_random_forward_is_refused_by_name() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5)

    network = nn.Sequential(nn.Flatten(), Noise(), nn.Linear(192, 5)).double()
    with pytest.raises(
        Refusal, match=r"same logits for the same image\. .*first seen at `1` \(Noise\)\. Make it deterministic"
    ):
        squared_gradient_norms(network, pictures(4))


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


def test_a_layer_exchanged_between_calls_is_noticed() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 5)).double()
    squared_gradient_norms(network, pictures(3))
    network[1].forward = lambda x: x @ network[1].weight.T * 3 + network[1].bias
    truth.assert_exact(squared_gradient_norms(network, pictures(3)), truth.true_norms(network, pictures(3)))


def test_custom_function_with_a_parameter_is_exact() -> None:
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
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.linear = nn.Parameter(torch.rand(192)), nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(Scale.apply(x.flatten(1), self.weight))

    network = Custom().double()
    truth.assert_exact(squared_gradient_norms(network, pictures(3)), truth.true_norms(network, pictures(3)))


def test_inference_tensors_and_constant_first_batch() -> None:
    network = make("residual")
    with torch.inference_mode():
        images = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
        found = squared_gradient_norms(network, images)
    truth.assert_exact(found, truth.true_norms(network, torch.zeros(4, 3, 8, 8, dtype=torch.float64)))


SLOW = {"sequence_first", "recurrent", "checkpointed"}  # exact through the loop


@pytest.mark.parametrize("name", sorted(set(TOYS) - SLOW))
def test_the_fast_way_is_taken(name: str) -> None:
    network = make(name)
    with exact_arithmetic(), probing(network):
        plan = plan_for(network, pictures(4), list(network.parameters()))
    assert plan.trace is not None, plan.reason
