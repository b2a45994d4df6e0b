"""Label designs: seeds equal autograd's through torch's losses, keep their digits at extreme logits, and refuse."""

import dataclasses

import pytest
import torch
from torch import Tensor

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import AllOnes, AllZeros, KHot, LabelDesign, Predicted, SecondBest, Uniform

from . import truth

LOSSES = {
    AllOnes(): truth.all_ones,
    AllZeros(): truth.all_zeros,
    KHot((1,)): truth.k_hot(1),
    KHot((0, 2)): truth.k_hot(0, 2),
    Predicted(): truth.predicted,
    Uniform(): truth.uniform,
    SecondBest(): truth.second_best,
    Predicted(10.0): truth.softened(truth.predicted, 10),
    SecondBest(temperature=0.5): truth.softened(truth.second_best, 0.5),
    Uniform(2.5): truth.softened(truth.uniform, 2.5),
}


def _autograd(loss: truth.Loss, logits: Tensor) -> Tensor:
    rows = []
    for row in logits:
        leaf = row[None].clone().requires_grad_()
        rows.append(torch.autograd.grad(loss(leaf), leaf)[0][0])
    return torch.stack(rows)


@pytest.mark.parametrize("design", LOSSES, ids=lambda design: design.name)
def test_logit_gradient_is_that_of_the_loss(design: LabelDesign) -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(design.logit_gradient(logits), _autograd(LOSSES[design], logits), rtol=1e-12, atol=1e-15)


def test_names_are_distinct_and_say_the_classes() -> None:
    names = [design.name for design in LOSSES]
    plain = ["all_ones", "all_zeros", "k_hot_1", "k_hot_0_2", "predicted", "uniform", "second_best"]
    assert names == [*plain, "predicted_t10", "second_best_t0.5", "uniform_t2.5"]


@pytest.mark.parametrize("logit", [15.0, 18.0, 40.0, 300.0])
def test_sigmoid_logit_gradients_keep_their_digits(logit: float) -> None:
    """BCE-with-logits itself computes σ(z) − 1 and has nothing left at z = 40."""
    logits = torch.tensor([[logit, -logit]], dtype=torch.float64)
    tail = torch.tensor(-logit, dtype=torch.float64).exp() / 2  # σ(−z) → exp(−z)
    torch.testing.assert_close(AllOnes().logit_gradient(logits)[0, 0], -tail, rtol=1e-6, atol=0)
    torch.testing.assert_close(AllZeros().logit_gradient(logits)[0, 1], tail, rtol=1e-6, atol=0)
    torch.testing.assert_close(KHot((0,)).logit_gradient(logits)[0], torch.stack([-tail, tail]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("margin", [20.0, 40.0, 300.0])
def test_predicted_logit_gradient_keeps_its_digits(margin: float) -> None:
    logits = torch.tensor([[0.0, margin, 0.0]], dtype=torch.float64)
    tail = torch.tensor(-margin, dtype=torch.float64).exp()
    torch.testing.assert_close(
        Predicted().logit_gradient(logits)[0], torch.stack([tail, -2 * tail, tail]), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("design", LOSSES, ids=lambda design: design.name)
def test_logit_gradients_are_finite_at_any_logit(design: LabelDesign) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 709.9], [-1e300, 1e300, 0.0, 1.0]], dtype=torch.float64)
    assert torch.isfinite(design.logit_gradient(logits)).all()


def test_designs_are_frozen_equal_and_hashable() -> None:
    assert KHot([0, 1]) == KHot((0, 1))  # type: ignore[arg-type]
    assert len({AllOnes(), AllOnes(), KHot((0,)), KHot((0,))}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        KHot((0,)).classes = (1,)  # type: ignore[misc]


@pytest.mark.parametrize("classes", [(), (1, 1), (-1,)])
def test_k_hot_refuses_classes_that_are_none(classes: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match=r"`classes` should be one or more distinct class indices.*Got `classes = \["):
        KHot(classes)


@pytest.mark.parametrize("design", [Predicted, SecondBest, Uniform])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(design: type[LabelDesign], temperature: float) -> None:
    with pytest.raises(Refusal, match=r"`temperature` should be positive and finite\. Got `temperature = "):
        design(temperature)  # type: ignore[call-arg]


def test_the_second_best_of_one_class_is_refused() -> None:
    with pytest.raises(Refusal, match=r"`SecondBest` should have a second class"):
        SecondBest().logit_gradient(torch.zeros(2, 1, dtype=torch.float64))


def test_k_hot_refuses_a_class_the_network_lacks() -> None:
    with pytest.raises(Refusal, match=r"`classes` should be below .* 4\. Got `classes = \[4\]`\. Choose from 0 to 3"):
        KHot((4,)).logit_gradient(torch.zeros(1, 4, dtype=torch.float64))
