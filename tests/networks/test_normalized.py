"""What is put around a network: its pixel statistics, and a second logit, with which every method of two classes works."""

from functools import partial

import pytest
import torch
from asserts import assert_refused
from torch import nn
from torch.nn import functional as F

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import AllOnes, KHot, Predicted, SecondBest, Uniform, squared_gradient_norms
from lightning_gradood.networks import Normalized, TwoLogits, two_logits
from lightning_gradood.perturbations import FGSM
from lightning_gradood.tasks import ClassificationTask, check_network

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]


def test_normalises_each_channel_before_the_network_by_statistics_that_are_no_weights():
    images = torch.rand(4, 3, 5, 6)
    expected = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Normalized(nn.Identity(), MEAN, STD)(images), expected)
    network = Normalized(nn.Conv2d(3, 2, 1), MEAN, STD)
    assert list(network.state_dict()) == ["network.weight", "network.bias"]
    assert network.double()(images.double()).dtype == torch.float64


def test_images_and_statistics_that_do_not_fit_are_refused():
    network, words = Normalized(nn.Identity(), MEAN, STD), "`images` should be floating point [N, 3, H, W]"
    wrong = [torch.rand(shape) for shape in ([2, 1, 4, 4], [2, 4, 4, 4], [3, 4, 4], [2, 4, 4, 3], [2, 3])]
    assert_refused(*((partial(network, one), words) for one in [*wrong, torch.zeros(1, 3, 4, 4, dtype=torch.uint8)]))
    statistics = [(MEAN, [0.5]), ([], []), ([0.1, float("inf"), 0.3], STD)]
    statistics += [(MEAN, [0.5, bad, 1.0]) for bad in (0.0, -1.0, 1e-60, float("nan"))]
    words = "`mean` and `std` should hold one finite value for each image channel"
    assert_refused(*((partial(Normalized, nn.Identity(), *one), words) for one in statistics))


LOSSES = {  # of one logit z, written without softmax; all as means over the two classes where the design takes one
    AllOnes(): lambda z: F.softplus(-z) / 2,
    KHot([0]): lambda z: F.softplus(z) / 2,
    Predicted(): lambda z: F.softplus(-z.abs()),
    SecondBest(): lambda z: F.softplus(z.abs()),
    Uniform(): lambda z: (F.softplus(z) + F.softplus(-z)) / 2,
}
IMAGES = torch.rand(5, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1])


def single():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    return nn.Sequential(*layers).double().eval()


def test_norms_are_those_of_the_one_logit_network():
    network = single()
    for design, loss in LOSSES.items():
        found = squared_gradient_norms(TwoLogits(network), IMAGES, [design])
        for image, row in zip(IMAGES, found, strict=True):
            gradients = torch.autograd.grad(loss(network(image[None])[0, 0]), list(network.parameters()))
            expected = torch.stack([part.square().sum() for part in gradients])
            torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-18)


def test_one_logit_without_a_second_dimension_is_the_same_network():
    network = single()
    flat = nn.Sequential(network, nn.Flatten(0)).eval()
    both = TwoLogits(flat), TwoLogits(network)
    assert torch.equal(*(network(IMAGES) for network in both))
    torch.testing.assert_close(*(squared_gradient_norms(network, IMAGES) for network in both))
    torch.testing.assert_close(*(FGSM(eps=0.1).craft(network, IMAGES, LABELS).images for network in both))
    assert check_network(flat, IMAGES[:2], 2) == 1
    logits = torch.rand(4, 3)
    assert two_logits(logits) is logits, "of two classes or more"
    for design in (Predicted(), SecondBest(), Uniform()):
        with pytest.raises(Refusal, match=r"network with one logit.*Use `networks\.TwoLogits\(network\)`"):
            design.logit_gradient(torch.zeros(2, 1, dtype=torch.float64))


def test_it_is_trained_attacked_and_predicts_by_binary_cross_entropy():
    for smoothing in (0.0, 0.2):
        network = single().float().train()
        logits = ClassificationTask(network, label_smoothing=smoothing)(IMAGES.float())
        logit = network(IMAGES.float())[:, 0]
        assert torch.equal(logits.argmax(1), (logit > 0).long())
        expected = F.binary_cross_entropy_with_logits(logit, LABELS * (1 - smoothing) + smoothing / 2)
        loss = F.cross_entropy(logits, LABELS, label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)
        mine, theirs = (torch.autograd.grad(one, list(network.parameters())) for one in (loss, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    network, images = single(), (0.2 + 0.6 * IMAGES).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(network(images)[:, 0], LABELS.double(), reduction="sum")
    expected = images + 0.01 * torch.autograd.grad(loss, images)[0].sign()
    found = FGSM(eps=0.01).craft(TwoLogits(network), images.detach(), LABELS).images
    torch.testing.assert_close(found, expected.detach())
