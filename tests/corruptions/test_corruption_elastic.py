"""Stretching moves what it says it moves, and bends the more the higher the severity."""

import numpy as np
import pytest

from lightning_gradood.corruptions.corruption import CIFAR_10_C, TINY_IMAGENET_C
from lightning_gradood.corruptions.digital import _affine, elastic_transform

RAMP = (
    np.concatenate([np.indices((64, 64)), np.zeros((1, 64, 64))]).transpose(1, 2, 0) / 64
)  # pixels that know their place


def bending(settings):
    """How much the map from pixels to their origins bends, away from the borders: mean second difference."""
    found = [elastic_transform(RAMP, np.random.default_rng(seed), *settings)[12:-12, 12:-12] for seed in range(8)]
    return np.mean([np.abs(np.diff(places, n=2, axis=axis)).mean() for places in found for axis in (0, 1)])


def test_nothing_moves_without_pull_and_corners():
    np.testing.assert_allclose(elastic_transform(RAMP, np.random.default_rng(0), 0, 0, 0), RAMP, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 64), (40, 90)])
def test_the_affine_map_takes_corners_where_they_are_moved(shape):
    moves = np.array([[3.0, -2.0], [1.5, 4.0], [-2.5, 0.5]])
    matrix, offset = _affine(np.zeros((*shape, 3)), moves)
    reach, centre = min(shape) // 3, np.array(shape) // 2
    for move, side in zip(moves, ([1, 1], [1, -1], [-1, -1]), strict=True):
        corner = centre + reach * np.array(side)
        np.testing.assert_allclose(matrix @ (corner + move) + offset, corner)


def test_an_affine_map_alone_bends_nothing():
    assert bending((0, 0, 0.05)) < 0.05 * bending((0.1, 0.04, 0.05))


def test_displacements_are_smooth_and_as_large_as_asked():
    found = elastic_transform(RAMP, np.random.default_rng(0), 0.1, 0.04, 0.0)[..., :2] * 64
    shifts = (found - 64 * RAMP[..., :2])[8:-8, 8:-8]
    # white noise of deviation 1/√3 that a Gaussian of s pixels has smoothed keeps 1 / (2 √π s) of it
    expected = 0.1 * 64 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 0.04 * 64)
    assert shifts.std() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("table", [CIFAR_10_C, TINY_IMAGENET_C])
def test_bending_grows_with_severity(table):
    found = [bending(settings) for settings in table["elastic_transform"]]
    assert found == sorted(found)
    assert found[4] > 2 * found[1]
