"""Crop and flip: each image is a window of its padded self, drawn on its own, under torch's seed."""

import pytest
import torch
from torch.nn import functional as F

from lightning_gradood.data import RandomCropFlip


def windows(image, padding, mode):
    """Yield all crops of one padded image, as they are and mirrored."""
    _, height, width = image.shape
    padded = F.pad(image[None], [padding] * 4, mode=mode)[0]
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[:, row : row + height, column : column + width]
            yield crop
            yield crop.flip(-1)


@pytest.mark.parametrize(("fill", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_each_result_is_a_window_of_its_own_image(fill, mode):
    images = torch.rand(20, 2, 6, 5)
    for image, result in zip(images, RandomCropFlip(2, fill=fill)(images), strict=True):
        assert any(torch.equal(result, window) for window in windows(image, 2, mode))


def test_equal_images_are_changed_in_every_way():
    image = torch.rand(1, 3, 4)
    results = RandomCropFlip(1)(image.expand(2000, -1, -1, -1))
    assert len(torch.unique(results, dim=0)) == 2 * 9


def test_without_padding_half_of_the_images_are_mirrored():
    images = torch.rand(1000, 1, 4, 4)
    results = RandomCropFlip(padding=0)(images)
    mirrored = (results == images.flip(-1)).flatten(1).all(1)
    assert 400 < mirrored.sum() < 600
    assert torch.equal(results[~mirrored], images[~mirrored])


def test_nothing_happens_without_padding_and_flip():
    images = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(RandomCropFlip(padding=0, flip=False)(images), images)


def test_torchs_seed_fixes_the_result():
    images = torch.rand(16, 3, 8, 8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(RandomCropFlip()(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
