"""No silent wrong number: batch-coupled and random networks are refused by name, the rest equals the loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.core import Refusal
from lightning_gradood.core.network_state import exact_arithmetic, frozen_network
from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.gradients.plan import plan_for
from lightning_gradood.gradients.rules import linear

from . import truth
from .toys import SLOW, TOYS, make, pictures


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
    "sub-batches": lambda x: torch.cat([x[: len(x) // 2] + x[len(x) - len(x) // 2 :], x[len(x) // 2 :]]),
    "batch norm in train mode": lambda x: F.batch_norm(x, None, None, training=True) if len(x) > 1 else x,
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


@pytest.mark.parametrize("name", sorted(set(TOYS) - SLOW))
def test_the_fast_way_is_taken(name: str) -> None:
    network = make(name)
    with exact_arithmetic(), frozen_network(network):
        made = plan_for(network, pictures(4), list(network.parameters()))
    assert made.trace is not None, made.reason


def test_wrong_closed_form_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break a formula: the plan must notice and the numbers stay right."""
    weight_norms = linear.weight_norms
    monkeypatch.setattr(linear, "weight_norms", lambda a, b: 1.1 * weight_norms(a, b))
    network = make("linear")
    truth.assert_exact(squared_gradient_norms(network, pictures(4)), truth.true_norms(network, pictures(4)))
    with exact_arithmetic(), frozen_network(network):
        made = plan_for(network, pictures(4), list(network.parameters()))
    assert made.reason == "closed forms do not give the loop's numbers"
