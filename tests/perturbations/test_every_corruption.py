"""What holds for every kind of corruption: of one 8-bit image, and as a perturbation of a batch."""

import hashlib
import random
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from asserts import random_states

from lightning_gradood.perturbations import KINDS, Corruption, corrupt
from lightning_gradood.perturbations.corruption import parameters_for, published

from .conftest import patches

PIXELS = patches(32, 6)
IMAGES = torch.from_numpy(PIXELS.copy()).permute(0, 3, 1, 2).float() / 255
IDS = [f"photo/{number}" for number in range(6)]
EVERY = pytest.mark.parametrize("kind", KINDS)
SEVERITIES = (1, 2, 3, 4, 5)
NOT_RANDOM = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
MIXING = {"defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "contrast", "pixelate"}
# Severities are ordered by the error of classifiers, and most kinds change pixels more as well. Not these, as published.
UNORDERED = {"elastic_transform", "glass_blur", "frost", "motion_blur"}


class Untouchable(torch.nn.Module):
    def forward(self, images):
        raise AssertionError("a corruption asked the network")


def crafted(attack, images=IMAGES, ids=IDS):
    return attack.craft(Untouchable(), images, torch.zeros(len(images), dtype=torch.int64), ids).images


def mean_change(corrupted, pixels):
    return np.abs(corrupted.astype(float) - pixels).mean()


@EVERY
def test_an_image_is_corrupted_by_its_seed_and_id_alone(kind):
    attack, images = Corruption(kind, severity=2, seed=7), IMAGES.clone()
    together = crafted(attack, images)
    assert torch.equal(images, IMAGES)
    text = f"7/{kind}/2/{IDS[2]}"  # all that random numbers come from, whatever the process
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
    assert torch.equal(together, (together * 255).round() / 255)
    expected = corrupt(PIXELS[2], kind, 2, generator)
    np.testing.assert_array_equal((together[2] * 255).round().permute(1, 2, 0).numpy(), expected)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    states = random_states()
    for rows in ([4, 0, 5], [3]):
        assert torch.equal(crafted(attack, IMAGES[rows], [IDS[row] for row in rows]), together[rows])
    with torch.inference_mode():
        last = crafted(attack, IMAGES.to(memory_format=torch.channels_last).clone())
    assert torch.equal(last, together)
    assert last.is_contiguous()
    double = crafted(attack, IMAGES.double())
    assert double.dtype == torch.float64
    assert torch.equal(double, (together.double() * 255).round() / 255)
    grey = crafted(attack, IMAGES[:2, :1], IDS[:2])
    colour = crafted(attack, IMAGES[:2, :1].expand(-1, 3, -1, -1), IDS[:2])
    torch.testing.assert_close(grey, colour.mean(1, keepdim=True), rtol=0, atol=1e-6)
    for other in (crafted(Corruption(kind, 2, seed=8)), crafted(attack, ids=IDS[::-1])):
        assert torch.equal(other, together) == (kind in NOT_RANDOM)
    assert random_states() == states


def test_seed_severity_and_id_draw_numbers_that_do_not_go_together():
    noise = partial(Corruption, "gaussian_noise")
    variants = [crafted(noise(1)), crafted(noise(1, seed=1)), crafted(noise(1), ids=IDS[::-1]), crafted(noise(2))]
    noises = torch.stack([(variant - IMAGES).flatten() for variant in variants])
    assert (torch.corrcoef(noises) - torch.eye(4)).abs().max() < 0.2  # clipping correlates them a little


@EVERY
def test_any_size_gives_other_pixels_of_the_same_size(kind):
    photo = patches(128, 2)[0]
    for height, width in [(1, 1), (2, 3), (8, 8), (28, 40), (70, 50), (128, 128)]:
        pixels = photo[:height, :width].copy()
        for severity in SEVERITIES:
            found = corrupt(pixels, kind, severity, np.random.default_rng(0))
            assert (found.dtype, found.shape) == (np.uint8, pixels.shape)
            assert height < 128 or mean_change(found, pixels) > 1
        np.testing.assert_array_equal(pixels, photo[:height, :width])


@EVERY
def test_photographs_are_changed_the_more_the_higher_the_severity(kind):
    for size in (32, 64):
        photos, found = patches(size, 60), []
        constant = np.full((size, size, 3), (37, 128, 201), dtype=np.uint8)
        for severity in SEVERITIES:
            draws = [np.random.default_rng([row, severity]) for row in range(60)]
            after = np.stack([corrupt(one, kind, severity, draw) for one, draw in zip(photos, draws, strict=True)])
            found.append(mean_change(after, photos))
            if kind in MIXING:
                np.testing.assert_array_equal(corrupt(constant, kind, severity, np.random.default_rng(0)), constant)
        assert found[0] > 0.1
        assert kind in UNORDERED or all(mild < severe for mild, severe in pairwise(found)), (size, found)
        assert kind == "elastic_transform" or found[4] > 1.2 * found[0]


def test_published_parameters_are_complete_and_follow_the_size_of_the_image():
    for table in published().values():
        assert tuple(table) == KINDS
        for severities in table.values():
            assert len(severities) == len(set(severities)) == 5
            assert len({len(settings) for settings in severities}) == 1
    for name, sizes in (
        ("CIFAR-10-C", [(1, 1), (45, 300), (300, 45)]),
        ("Tiny ImageNet-C", [(46, 46), (119, 119)]),
        ("ImageNet-C", [(120, 120), (500, 375)]),
    ):
        for size in sizes:
            found = {kind: tuple(parameters_for(kind, severity, *size) for severity in SEVERITIES) for kind in KINDS}
            assert found == {kind: tuple(settings) for kind, settings in published()[name].items()}, size


def test_what_does_not_exist_is_no_corruption():
    pixels, rng = np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0)
    for kind, severity in (("rain", 1), ("fog", 0), ("fog", 6)):
        for make in (partial(Corruption, kind, severity), partial(corrupt, pixels, kind, severity, rng)):
            with pytest.raises(KeyError):
                make()
