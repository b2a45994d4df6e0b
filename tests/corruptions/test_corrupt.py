"""What holds for every kind: shape, range, determinism, and more damage at higher severity."""

from itertools import pairwise

import numpy as np
import pytest
from photo_patches import mean_change, patches

from lightning_gradood.core import Refusal
from lightning_gradood.corruptions import KINDS, corrupt

UNRANDOM = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
BLURS = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "contrast", "pixelate"]
# Severities are ordered by the error of classifiers, and most kinds change pixels more as well. Not these, as published:
# elastic_transform bends finer things by less (see its own test), glass_blur takes turns between blur and shuffling,
# frost takes from the image what it adds of ice, and motion_blur of small images has two severities that differ in the
# faint end of the trail only.
UNORDERED = {
    32: {"elastic_transform", "glass_blur", "frost", "motion_blur"},
    64: {"elastic_transform", "glass_blur", "frost"},
}
ORDERED = [(size, kind) for size in (32, 64) for kind in KINDS if kind not in UNORDERED[size]]


def changes(kind, size, count=60):
    """Mean change at severities 1 … 5, other random numbers for every image."""
    photos = patches(size, count)
    return [
        np.mean([mean_change(corrupt(p, kind, s, np.random.default_rng([i, s])), p) for i, p in enumerate(photos)])
        for s in (1, 2, 3, 4, 5)
    ]


@pytest.mark.parametrize(("size", "kind"), ORDERED)
def test_higher_severity_changes_photographs_more(size, kind):
    found = changes(kind, size)
    assert found[0] > 0.1
    assert all(mild < severe for mild, severe in pairwise(found)), found


@pytest.mark.parametrize("kind", ["glass_blur", "frost", "motion_blur"])
def test_severity_five_changes_photographs_more_than_severity_one(kind):
    found = changes(kind, 32)
    assert found[4] > 1.2 * found[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 8), (28, 40), (70, 50)])
def test_any_size_gives_pixels_of_the_same_size(kind, shape):
    pixels = np.random.default_rng(0).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    before = pixels.copy()
    for severity in (1, 2, 3, 4, 5):
        found = corrupt(pixels, kind, severity, np.random.default_rng(0))
        assert found.dtype == np.uint8
        assert found.shape == pixels.shape
        assert not np.shares_memory(found, pixels)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_parameters_work(kind):
    pixels = patches(128, 2)[0]
    found = [corrupt(pixels, kind, severity, np.random.default_rng(0)) for severity in (1, 5)]
    assert all(mean_change(each, pixels) > 1 for each in found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_is_all_that_is_random(kind):
    pixels = patches(32, 2)[0]
    state = np.random.get_state()[1].copy()
    first, again, other = (corrupt(pixels, kind, 4, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (kind in UNRANDOM)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("kind", BLURS)
@pytest.mark.parametrize("size", [32, 64])
def test_a_constant_image_stays_as_it_is_where_pixels_are_only_mixed(kind, size):
    constant = np.full((size, size, 3), (37, 128, 201), dtype=np.uint8)
    for severity in (1, 2, 3, 4, 5):
        np.testing.assert_array_equal(corrupt(constant, kind, severity, np.random.default_rng(0)), constant)


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur", "zoom_blur", "glass_blur", "pixelate"])
def test_blur_keeps_the_mean_brightness_of_photographs(kind):
    photos = patches(32, 40)
    found = np.stack([corrupt(pixels, kind, 3, np.random.default_rng(i)) for i, pixels in enumerate(photos)])
    assert found.mean() == pytest.approx(photos.mean(), abs=0.5)


def test_all_grey_levels_survive_where_nothing_is_hit():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    found = corrupt(levels, "impulse_noise", 1, np.random.default_rng(0))
    kept = (found != 0) & (found != 255)
    np.testing.assert_array_equal(found[kept], levels[kept])


def test_unknown_kinds_are_refused_with_all_there_are():
    with pytest.raises(
        Refusal, match=r"`kind` should be one of gaussian_noise, .*jpeg_compression\. Got `kind = 'rain'`"
    ):
        corrupt(np.zeros((4, 4, 3), np.uint8), "rain", 1, np.random.default_rng(0))


@pytest.mark.parametrize("severity", [0, 6, -1, 2.0, 2.5, True, "3", None])
def test_severities_that_do_not_exist_are_refused(severity):
    with pytest.raises(
        Refusal, match=r"`severity` should be an integer from 1 \(mild\) to 5\. Got `severity = "
    ) as told:
        corrupt(np.zeros((4, 4, 3), np.uint8), "fog", severity, np.random.default_rng(0))
    assert repr(severity) in str(told.value)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(Refusal, match=r"`pixels` should be uint8 \[H, W, 3\]\. Got `pixels` of .*Scale to 0 … 255"):
        corrupt(pixels, "fog", 1, np.random.default_rng(0))
