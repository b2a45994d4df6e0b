"""Label designs: seeds equal autograd's through torch's losses, keep their digits at extreme logits, and refuse."""

import torch
from asserts import assert_refused
from torch.testing import assert_close

from lightning_gradood.gradients import AllOnes, AllZeros, KHot, Predicted, SecondBest, Uniform

from . import truth

LOSSES = {
    AllOnes(): truth.all_ones, AllZeros(): truth.all_zeros, KHot((1,)): truth.k_hot(1),
    KHot((0, 2)): truth.k_hot(0, 2), Predicted(): truth.predicted, Uniform(): truth.uniform,
    SecondBest(): truth.second_best, Predicted(10.0): lambda logits: truth.predicted(logits / 10),
    SecondBest(temperature=0.5): lambda logits: truth.second_best(logits / 0.5),
    Uniform(2.5): lambda logits: truth.uniform(logits / 2.5),
}  # fmt: skip


def test_logit_gradient_is_that_of_the_loss_and_finite_at_any_logit():
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    extreme = torch.tensor([[1e4, -1e4, 0.0, 709.9], [-1e300, 1e300, 0.0, 1.0]], dtype=torch.float64)
    for design, loss in LOSSES.items():
        leaves = [row.clone().requires_grad_() for row in logits.split(1)]
        own = torch.cat([torch.autograd.grad(loss(leaf), leaf)[0] for leaf in leaves])
        assert_close(design.logit_gradient(logits), own, rtol=1e-12, atol=1e-15)
        assert torch.isfinite(design.logit_gradient(extreme)).all(), design


def test_logit_gradients_keep_their_digits():
    """BCE-with-logits itself computes σ(z) − 1 and has nothing left at z = 40."""
    for logit in (15.0, 18.0, 40.0, 300.0):
        logits = torch.tensor([[logit, -logit]], dtype=torch.float64)
        tail = torch.tensor(-logit, dtype=torch.float64).exp() / 2  # σ(−z) → exp(−z)
        assert_close(AllOnes().logit_gradient(logits)[0, 0], -tail, rtol=1e-6, atol=0)
        assert_close(AllZeros().logit_gradient(logits)[0, 1], tail, rtol=1e-6, atol=0)
        assert_close(KHot((0,)).logit_gradient(logits)[0], torch.stack([-tail, tail]), rtol=1e-6, atol=0)
    for margin in (20.0, 40.0, 300.0):
        tail = torch.tensor(-margin, dtype=torch.float64).exp()
        found = Predicted().logit_gradient(torch.tensor([[0.0, margin, 0.0]], dtype=torch.float64))[0]
        assert_close(found, torch.stack([tail, -2 * tail, tail]), rtol=1e-8, atol=0)


def test_names_are_distinct_and_equal_designs_are_equal():
    plain = ["all_ones", "all_zeros", "k_hot_1", "k_hot_0_2", "predicted", "uniform", "second_best"]
    assert [one.name for one in LOSSES] == [*plain, "predicted_t10", "second_best_t0.5", "uniform_t2.5"]
    assert KHot([0, 1]) == KHot((0, 1))
    assert len({AllOnes(), AllOnes(), KHot((0,)), KHot((0,))}) == 2


def test_refusals():
    one, four = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    assert_refused(
        (lambda: SecondBest().logit_gradient(one), "`SecondBest` should have two classes or more"),
        *(
            (
                lambda classes=classes: KHot(classes).logit_gradient(four),
                "4 classes. Got `classes = [.*Choose from 0 to 3",
            )
            for classes in ((4,), (), (-1,))
        ),
    )
