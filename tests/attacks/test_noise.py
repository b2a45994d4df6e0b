"""Noise as large as an attack, image by image."""

from dataclasses import replace

import torch

from lightning_gradood.attacks import CarliniWagner, Semantic, noise_like
from lightning_gradood.core import Crafted

from .conftest import Digits


def _crafted(digits: Digits) -> Crafted:
    return CarliniWagner(steps=40).craft(digits.network, digits.images[:20], digits.labels[:20])


def test_noise_has_the_norm_of_the_attack(digits: Digits) -> None:
    crafted = replace(_crafted(digits), targets=digits.labels[:20])
    ids = [str(row) for row in range(20)]
    noisy = noise_like(crafted, ids)
    logits = torch.zeros(20, 10)
    assert float(noisy.images.min()) >= 0
    assert float(noisy.images.max()) <= 1
    wanted = crafted.judge(logits).l2
    assert len(set(wanted.tolist())) > 15
    torch.testing.assert_close(noisy.judge(logits).l2, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(noisy.images, crafted.images)
    assert torch.equal(noisy.clean, crafted.clean)
    assert torch.equal(noisy.labels, crafted.labels)
    assert noisy.targets is None


def test_noise_belongs_to_seed_and_id(digits: Digits) -> None:
    crafted = _crafted(digits)
    ids = [str(row) for row in range(20)]
    noisy = noise_like(crafted, ids).images
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = Crafted(crafted.images[order], crafted.clean[order], crafted.labels[order])
    assert torch.equal(noise_like(shuffled, [ids[row] for row in order]).images, noisy[order])
    assert not torch.equal(noise_like(crafted, ids, seed=1).images, noisy)
    twice = Crafted(crafted.images[[0, 0]], crafted.clean[[0, 0]], crafted.labels[[0, 0]])
    one, other = noise_like(twice, ["one", "other"]).images
    assert not torch.equal(one, other)


def test_more_than_the_pixels_allow_is_as_near_as_possible() -> None:
    """The negative of black is farther than half of all clipped noise can go."""
    clean = torch.zeros(2, 1, 8, 8)
    crafted = Semantic().craft(torch.nn.Flatten(), clean, torch.zeros(2, dtype=torch.int64))
    noisy = noise_like(crafted, ["a", "b"]).images
    assert float(((noisy == 0) | (noisy > 0.99)).float().mean()) == 1.0


def test_no_change_is_no_noise(digits: Digits) -> None:
    clean = digits.images[:3]
    crafted = Crafted(clean, clean, digits.labels[:3])
    assert torch.equal(noise_like(crafted, ["a", "b", "c"]).images, clean)
