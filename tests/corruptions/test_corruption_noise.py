"""Noise has the standard deviation, variance and share that its parameters say."""

import numpy as np
import pytest

from lightning_gradood.corruptions.corruption import CIFAR_10_C, IMAGENET_C
from lightning_gradood.corruptions.noise_and_blur import gaussian_noise, impulse_noise, shot_noise

GREY = np.full((200, 200, 3), 0.4)


@pytest.mark.parametrize("table", [CIFAR_10_C, IMAGENET_C])
@pytest.mark.parametrize("severity", [1, 5])
def test_gaussian_noise_has_the_deviation_asked_for_and_no_mean(table, severity):
    (deviation,) = table["gaussian_noise"][severity - 1]
    noise = gaussian_noise(GREY, np.random.default_rng(0), deviation) - GREY
    assert noise.std() == pytest.approx(deviation, rel=0.01)
    assert abs(noise.mean()) < 4 * deviation / np.sqrt(GREY.size)


@pytest.mark.parametrize("photons", [500, 60, 3])
def test_shot_noise_has_the_variance_of_counted_photons(photons):
    found = shot_noise(GREY, np.random.default_rng(0), photons)
    assert found.mean() == pytest.approx(0.4, rel=0.01)
    assert found.var() == pytest.approx(0.4 / photons, rel=0.02)
    np.testing.assert_allclose(found * photons, np.rint(found * photons), atol=1e-9)  # counts


def test_black_stays_black_under_shot_noise():
    assert not shot_noise(np.zeros((8, 8, 3)), np.random.default_rng(0), 3).any()


@pytest.mark.parametrize("share", [0.01, 0.27])
def test_impulse_noise_sets_its_share_half_to_black_and_half_to_white(share):
    found = impulse_noise(GREY, np.random.default_rng(0), share)
    changed = found != GREY
    assert changed.mean() == pytest.approx(share, rel=0.05)
    assert set(np.unique(found[changed])) == {0.0, 1.0}
    assert found[changed].mean() == pytest.approx(0.5, abs=0.05)


def test_channels_of_a_pixel_are_hit_apart_from_each_other():
    changed = impulse_noise(GREY, np.random.default_rng(0), 0.27) != GREY
    assert changed.all(axis=2).mean() == pytest.approx(0.27**3, rel=0.1)
