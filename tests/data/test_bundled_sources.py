"""The images that come with scikit-learn: sizes, parts and refusals."""

import numpy as np
import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.data import DigitsSource, PhotoPatches


def pixels(listing):
    return np.stack([np.asarray(listing.read(row)) for row in range(len(listing.keys))])


def test_digits_are_32_by_32_rgb_and_labelled_by_their_place_in_the_list():
    listing = DigitsSource([9, 0]).open()
    assert pixels(listing).shape == (358, 32, 32, 3)
    assert listing.classes == ["9", "0"]
    assert listing.labels.count(0) == 180
    assert listing.keys[:3] == ["0000", "0009", "0010"]
    assert listing.labels[:3] == [1, 0, 1]


def test_an_enlarged_digit_still_shows_its_scan():
    from sklearn.datasets import load_digits

    shrunk = pixels(DigitsSource(list(range(10))).open())[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) * 16 / 255
    assert np.corrcoef(shrunk.ravel(), load_digits().images.ravel())[0, 1] > 0.95


def test_train_and_test_parts_are_disjoint_complete_and_do_not_depend_on_the_other_digits():
    every, train, test = (DigitsSource(list(range(9)), part).open() for part in ("all", "train", "test"))
    assert sorted(train.keys + test.keys) == every.keys
    assert (len(train.keys), len(test.keys)) == (970, 647)
    assert set(DigitsSource([4], "test").open().keys) <= set(test.keys)
    for digit in range(9):
        assert train.labels.count(digit) == pytest.approx(0.6 * every.labels.count(digit), abs=1)


@pytest.mark.parametrize("digits", [[], [1, 1], [10], [-1]])
def test_impossible_digits_are_refused(digits):
    with pytest.raises(Refusal, match=r"`digits` should be one or more of 0 … 9, each once\. Got `digits = \["):
        DigitsSource(digits)


def test_photographs_are_cut_into_patches_that_put_them_together_again():
    from sklearn.datasets import load_sample_image

    listing = PhotoPatches().open()
    assert len(listing.keys) == len(set(listing.keys)) == 520
    assert (listing.labels.count(0), listing.labels.count(1), listing.classes) == (260, 260, ["china", "flower"])
    whole = pixels(listing)[260:].reshape(13, 20, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(416, 640, 3)
    assert np.array_equal(whole, load_sample_image("flower.jpg")[:416, :640])


def test_scale_and_size_set_the_number_of_patches():
    listing = PhotoPatches(size=16, scale=0.25).open()
    assert pixels(listing).shape == (2 * 6 * 10, 16, 16, 3)


@pytest.mark.parametrize(
    ("size", "scale", "words"),
    [
        (0, 1.0, "`size` should be at least 1. Got `size = 0`"),
        (32, 0.0, "`size` should be between 1 and.*Got `size = 32, scale = 0.0`"),
        (32, 0.05, "`size` should be between 1 and.*Got `size = 32, scale = 0.05`"),
    ],
)
def test_impossible_patches_are_refused(size, scale, words):
    with pytest.raises(Refusal, match=words):
        PhotoPatches(size, scale)
