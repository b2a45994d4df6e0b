"""GradNorm against autograd and pytorch-ood, image statistics against their definitions."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_ood.detector import GradNorm

import lightning_gradood.detectors as d
from lightning_gradood.detectors import ImageStatisticsProbe
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.probes import read_probes
from lightning_gradood.records import Records

image_statistics = partial(ImageStatisticsProbe(), None)  # no network is run
IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_grad_norm_is_autograd_s_of_the_summed_loss_and_pytorch_ood_s_times_the_classes():
    torch.manual_seed(0)
    network = Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.5] * 3)
    read = read_probes(d.GradNorm().probes, network, IMAGES).values
    values = -d.GradNorm().score(
        Records.build(list("abcde"), source="a", values={k: v.numpy() for k, v in read.items()})
    )
    network.eval()
    for image, value in zip(IMAGES, values, strict=True):
        loss = -network(image[None]).log_softmax(dim=1).sum()
        (gradient,) = torch.autograd.grad(loss, network.network.linear.weight)
        assert value == pytest.approx(gradient.abs().sum().item(), rel=1e-4)
    theirs = GradNorm(network, param_filter=lambda name: name == "network.linear.weight").predict(IMAGES)
    np.testing.assert_allclose(values, -4 * theirs.double(), rtol=1e-4)


def test_the_energy_of_a_wave_counts_if_it_is_shorter_than_four_pixels():
    for period, axis in itertools.product((2, 3, 4, 6, 12), (2, 3)):
        wave = 0.5 + 0.25 * torch.cos(2 * torch.pi * torch.arange(24, dtype=torch.float64) / period)
        image = wave.expand(1, 3, 24, 24) if axis == 3 else wave[:, None].expand(1, 3, 24, 24)
        mean, variance, energy, _ = image_statistics(image)[0].tolist()
        assert (mean, variance) == pytest.approx((wave.mean().item(), wave.var(correction=0).item()))
        assert energy == pytest.approx(variance if period < 4 else 0.0, abs=1e-12)


def test_blockiness_is_the_step_at_borders_less_the_step_elsewhere():
    blocks = (torch.arange(24) // 8 % 2).double() * 0.5  # steps of .5 at 8 and 16
    slope = 0.01 * torch.arange(24).double()
    at_borders = (0.5 + 0.01 + 0.5 - 0.01) / 2
    along_rows = (blocks + slope).expand(1, 1, 24, 24)
    for image in (along_rows, along_rows.transpose(2, 3)):
        # the other direction is flat
        assert image_statistics(image)[0, 3].item() == pytest.approx((at_borders - 0.01) / 2)
        assert image_statistics(image[..., 3:, 3:])[0, 3].item() < 0  # blocks are counted from the corner
    assert image_statistics(IMAGES[:, :, :8, :8])[:, 3].tolist() == [0] * 5  # small images have no borders
    assert image_statistics(IMAGES[:, :1, :1, :1])[:, 1:].abs().max() < 1e-20
