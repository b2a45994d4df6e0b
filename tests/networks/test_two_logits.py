"""A network with one logit is a binary classifier: sigmoid, binary cross entropy, and every method of two classes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gradood.attacks import FGSM
from lightning_gradood.core import Refusal
from lightning_gradood.detectors import GradNormProbe
from lightning_gradood.gradients import AllOnes, KHot, Predicted, SecondBest, Uniform, squared_gradient_norms
from lightning_gradood.networks import TwoLogits, two_logits
from lightning_gradood.tasks import ClassificationTask, check_network

LOSSES = {  # of one logit z, written without softmax; all as means over the two classes where the design takes one
    AllOnes(): lambda z: F.softplus(-z) / 2,
    KHot([0]): lambda z: F.softplus(z) / 2,
    Predicted(): lambda z: F.softplus(-z.abs()),
    SecondBest(): lambda z: F.softplus(z.abs()),
    Uniform(): lambda z: (F.softplus(z) + F.softplus(-z)) / 2,
}


def single(seed=0):
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    return nn.Sequential(*layers).double().eval()


IMAGES = torch.rand(5, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("design", LOSSES, ids=lambda design: design.name)
def test_norms_are_those_of_the_one_logit_network(design):
    network = single()
    found = squared_gradient_norms(TwoLogits(network), IMAGES, [design])
    for image, row in zip(IMAGES, found, strict=True):
        loss = LOSSES[design](network(image[None])[0, 0])
        expected = [part.square().sum() for part in torch.autograd.grad(loss, list(network.parameters()))]
        torch.testing.assert_close(row, torch.stack(expected), rtol=1e-9, atol=1e-18)


def test_one_logit_without_a_second_dimension_is_the_same_network():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = single()

        def forward(self, images):
            return self.network(images)[:, 0]

    flat, design = Flat().eval(), AllOnes()
    assert torch.equal(TwoLogits(flat)(IMAGES), TwoLogits(flat.network)(IMAGES))
    mine, theirs = (squared_gradient_norms(one, IMAGES, [design]) for one in (TwoLogits(flat), TwoLogits(flat.network)))
    torch.testing.assert_close(mine, theirs)
    assert check_network(flat, IMAGES[:2], 2) == 1
    torch.testing.assert_close(
        FGSM(eps=0.1).craft(TwoLogits(flat), IMAGES, torch.zeros(5, dtype=torch.int64)).images,
        FGSM(eps=0.1).craft(TwoLogits(flat.network), IMAGES, torch.zeros(5, dtype=torch.int64)).images,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_training_is_binary_cross_entropy_and_predicts_by_the_sign(smoothing):
    network = single().float().train()
    task = ClassificationTask(network, label_smoothing=smoothing)
    images, labels = IMAGES.float(), torch.tensor([0, 1, 1, 0, 1])
    logits = task(images)
    logit = network(images)[:, 0]
    assert torch.equal(logits.argmax(1), (logit > 0).long())
    target = labels * (1 - smoothing) + smoothing / 2
    expected = F.binary_cross_entropy_with_logits(logit, target)
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(
        *(torch.autograd.grad(one, list(network.parameters())) for one in (loss, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_an_attack_follows_the_gradient_of_binary_cross_entropy():
    network, labels = single(), torch.tensor([0, 1, 1, 0, 1])
    images = (0.2 + 0.6 * IMAGES).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(network(images)[:, 0], labels.double(), reduction="sum")
    expected = images + 0.01 * torch.autograd.grad(loss, images)[0].sign()
    found = FGSM(eps=0.01).craft(TwoLogits(network), images.detach(), labels).images
    torch.testing.assert_close(found, expected.detach())


def test_gradnorm_is_that_of_the_last_layers_only_row():
    network = single()
    found = GradNormProbe()(TwoLogits(network), IMAGES)
    for image, value in zip(IMAGES, found[:, 0], strict=True):
        logit = network(image[None])[0, 0]
        loss = F.softplus(logit) + F.softplus(-logit)  # to a uniform label, summed over the two classes
        expected = torch.autograd.grad(loss, network[-1].weight)[0].abs().sum()
        torch.testing.assert_close(value, expected)


def test_logits_of_two_classes_or_more_stay_as_they_are():
    logits = torch.rand(4, 3)
    assert two_logits(logits) is logits


@pytest.mark.parametrize("design", [Predicted(), SecondBest(), Uniform()])
def test_softmax_of_one_logit_is_refused_with_the_way_out(design):
    with pytest.raises(Refusal, match=r"network with one logit.*Use `networks\.TwoLogits\(network\)`"):
        design.logit_gradient(torch.zeros(2, 1, dtype=torch.float64))
