"""Snow brightens, fog veils without glare, and frost has the brightness of the photographs that it stands in for."""

import numpy as np
import pytest
from photo_patches import as_image, patches

from lightning_gradood.corruptions.corruption import CIFAR_10_C, IMAGENET_C, TINY_IMAGENET_C
from lightning_gradood.corruptions.weather import BRIGHTEST, DARKEST, crystals, fog, frost, plasma, snow

PHOTO = as_image(patches(32, 3)[1])
TABLES = [CIFAR_10_C, TINY_IMAGENET_C, IMAGENET_C]


def roughness(field):
    """Mean square step between neighbours over the variance."""
    return (np.diff(field, axis=0) ** 2).mean() / field.var()


@pytest.mark.parametrize("side", [2, 32, 256])
def test_plasma_spans_the_unit_interval_and_has_no_seam(side):
    field = plasma(side, side, np.random.default_rng(0), 3)
    assert (field.min(), field.max()) == (0, 1)
    steps, seam = np.abs(np.diff(field, axis=0)), np.abs(field[0] - field[-1])
    assert seam.mean() < 3 * steps.mean()


def test_plasma_is_cut_to_shape_and_rougher_with_less_decay():
    assert plasma(1, 1, np.random.default_rng(0), 2).shape == (1, 1)
    assert plasma(20, 33, np.random.default_rng(0), 2).shape == (20, 33)
    fields = [plasma(64, 64, np.random.default_rng(0), decay) for decay in (1, 1.3, 2)]
    found = [roughness(field) for field in fields]
    assert found == sorted(found, reverse=True)


def test_displacements_shrink_by_the_square_of_the_decay_from_scale_to_scale():
    asked = []

    class Recording(np.random.Generator):
        def uniform(self, low, high, size):
            asked.append((low, high, size[-1]))
            return super().uniform(low, high, size)

    plasma(16, 16, Recording(np.random.PCG64(0)), 3)
    np.testing.assert_allclose(asked, [(-(9.0**-k), 9.0**-k, 2**k) for k in range(4)])


@pytest.mark.parametrize("table", TABLES)
def test_snow_only_adds_light_and_falls_downwards(table):
    falling = []
    for settings in table["snow"]:
        assert (snow(PHOTO, np.random.default_rng(0), *settings) >= PHOTO - 1e-12).all()
        black = snow(np.zeros((64, 64, 3)), np.random.default_rng(0), *settings)[..., 0]
        falling.append(np.abs(np.diff(black, axis=0)).mean() / np.abs(np.diff(black, axis=1)).mean())
    assert np.mean(falling) < 0.9  # streaks change less along their way than across


def test_fog_never_outshines_the_image_and_vanishes_with_its_density():
    veiled, other = (fog(image, np.random.default_rng(0), 1.5, 2) for image in (PHOTO, PHOTO[::-1]))
    assert veiled.max() <= PHOTO.max()
    np.testing.assert_allclose(veiled - other, (PHOTO - PHOTO[::-1]) * PHOTO.max() / (PHOTO.max() + 1.5))
    np.testing.assert_array_equal(fog(PHOTO, np.random.default_rng(0), 0, 2), PHOTO)
    assert not fog(np.zeros((8, 8, 3)), np.random.default_rng(0), 1.5, 2).any()


@pytest.mark.parametrize(("size", "scale"), [(32, 0.2), (64, 0.3), (224, 1)])
def test_crystals_are_as_bright_contrasted_and_blue_as_photographs_of_frost(size, scale):
    drawn = np.stack([crystals(size, size, np.random.default_rng(seed), scale) for seed in range(20)])
    means, contrasts = drawn.mean(axis=(1, 2, 3)), drawn.mean(axis=3).std(axis=(1, 2))
    assert means.min() > DARKEST - 0.02
    assert means.max() < BRIGHTEST + 0.02
    assert means.mean() == pytest.approx(0.645, abs=0.05)  # that of the five photographs
    assert contrasts.min() > 0.07
    assert contrasts.max() < 0.18
    assert np.corrcoef(means, contrasts)[0, 1] < -0.8
    red, _, blue = drawn.mean(axis=(0, 1, 2))
    assert blue > red + 0.03


def test_frost_is_finer_where_photographs_would_have_been_scaled_down():
    fine, coarse = (crystals(128, 128, np.random.default_rng(0), scale)[..., 0] for scale in (0.2, 1))
    assert roughness(fine) > roughness(coarse)


def test_frost_blends():
    drawn = crystals(32, 32, np.random.default_rng(0), 0.2)
    np.testing.assert_allclose(frost(PHOTO, np.random.default_rng(0), 0.75, 0.45, 0.2), 0.75 * PHOTO + 0.45 * drawn)
