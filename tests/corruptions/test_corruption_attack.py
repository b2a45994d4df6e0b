"""Corruptions as attacks: no network is asked, and an image's corruption is its own."""

import hashlib
import json

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from photo_patches import patches

from lightning_gradood.core import Perturbation, Refusal
from lightning_gradood.corruptions import KINDS, Corruption, corrupt, corruptions_at

PIXELS = patches(32, 6)
IMAGES = torch.from_numpy(PIXELS.copy()).permute(0, 3, 1, 2).float() / 255
LABELS = torch.arange(6)
IDS = [f"photo/{number}" for number in range(6)]


class Untouchable(torch.nn.Module):
    """A network that must not be asked."""

    def forward(self, images):
        raise AssertionError("a corruption asked the network")


def crafted(attack, images=IMAGES, ids=None):
    return attack.craft(Untouchable(), images, LABELS[: len(images)], ids).images


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_batch_nor_global_seed_matters(kind):
    attack = Corruption(kind, severity=2)
    together = crafted(attack, ids=IDS)
    order = [4, 0, 5]
    torch.manual_seed(1)
    np.random.seed(1)
    shuffled = crafted(attack, IMAGES[order], [IDS[number] for number in order])
    alone = crafted(attack, IMAGES[3:4], IDS[3:4])
    assert torch.equal(shuffled, together[order])
    assert torch.equal(alone, together[3:4])


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_are_eight_bit_and_those_of_the_function(kind):
    attack = Corruption(kind, severity=5, seed=7)
    found = crafted(attack, ids=IDS)
    assert torch.equal(found, (found * 255).round() / 255)
    text = f"7/{kind}/5/{IDS[2]}"  # all that random numbers come from, whatever the process
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
    expected = corrupt(PIXELS[2], kind, 5, generator)
    np.testing.assert_array_equal((found[2] * 255).round().permute(1, 2, 0).numpy(), expected)


def test_seed_kind_severity_and_id_draw_other_numbers():
    variants = [
        crafted(Corruption("gaussian_noise", 1), ids=IDS),
        crafted(Corruption("gaussian_noise", 1, seed=1), ids=IDS),
        crafted(Corruption("gaussian_noise", 1), ids=IDS[::-1]),
        crafted(Corruption("gaussian_noise", 2), ids=IDS),
    ]
    noises = [(variant - IMAGES).flatten() for variant in variants]
    correlations = torch.corrcoef(torch.stack(noises)) - torch.eye(4)
    assert correlations.abs().max() < 0.2  # clipping correlates them a little


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["fog", "jpeg_compression"])
def test_images_come_back_in_their_dtype(dtype, kind):
    found = crafted(Corruption(kind), IMAGES.to(dtype))
    assert found.dtype == dtype
    assert found.shape == IMAGES.shape
    assert found.is_contiguous()
    assert torch.equal(found, (crafted(Corruption(kind)).double() * 255).round().to(dtype) / 255)


@pytest.mark.parametrize("kind", KINDS)
def test_grey_images_are_corrupted_as_colour_and_averaged(kind):
    grey = IMAGES[:2, :1]
    found = crafted(Corruption(kind), grey, IDS[:2])
    assert found.shape == grey.shape
    expected = crafted(Corruption(kind), grey.expand(-1, 3, -1, -1), IDS[:2]).mean(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_it_works_under_inference_mode_on_images_of_any_memory_layout():
    images = IMAGES.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = crafted(Corruption("contrast"), images.clone(), IDS)
    assert torch.equal(found, crafted(Corruption("contrast"), ids=IDS))


def test_clean_images_are_left_alone():
    images = IMAGES.clone()
    crafted(Corruption("frost"), images)
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 4, 8, 8), (2, 192), (2, 3, 4, 8, 8)])
def test_images_of_other_kinds_are_refused(shape):
    with pytest.raises(
        Refusal, match=r"`images` should be \[N, 3, H, W\] or grey \[N, 1, H, W\]\. Got `images.shape = "
    ):
        crafted(Corruption("fog"), torch.zeros(shape))


def test_settings_that_do_not_exist_are_refused_at_once():
    with pytest.raises(Refusal, match="`kind` should be one of gaussian_noise, "):
        Corruption("rain")
    for severity in (0, 6, 3.0):
        with pytest.raises(Refusal, match=r"`severity` should be an integer from 1 \(mild\) to 5"):
            Corruption("fog", severity)
    with pytest.raises(Refusal, match=r"Got `severity = 6`"):
        corruptions_at(6)


def test_its_description_tells_corruptions_apart():
    told = {json.dumps(Corruption(kind, severity).describe()) for kind in KINDS for severity in (1, 5)}
    assert len(told) == 30
    assert Corruption("fog", 2, seed=3).describe()["settings"] == {"kind": "fog", "severity": 2, "seed": 3}
    assert Corruption("fog").passes == 0


def test_all_fifteen_at_one_severity():
    found = corruptions_at(4)
    assert tuple(found) == KINDS
    assert all(attack.kind == kind and attack.severity == 4 for kind, attack in found.items())


def test_yaml_names_it_by_class_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--attack", type=Perturbation)
    given = {"class_path": "lightning_gradood.corruptions.Corruption", "init_args": {"kind": "snow", "severity": 5}}
    attack = parser.instantiate_classes(parser.parse_object({"attack": given})).attack
    assert (attack.kind, attack.severity, attack.seed) == ("snow", 5, 0)
