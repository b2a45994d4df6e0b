"""Splits: exact sizes, every row once, in proportion, and independent of what they should not depend on."""

from fractions import Fraction

import numpy as np
import pytest

from lightning_gradood.core import Refusal, named_seed
from lightning_gradood.data.splits import allocate, smallest_count, split_rows

PAPER = (0.4, 0.4, 0.2)
SVHN_TEST = [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595]  # images of each digit, 26,032 together


@pytest.mark.parametrize(
    ("counts", "sizes"), [([1000] * 10, [4000, 4000, 2000]), (SVHN_TEST, [10413, 10413, 5206]), ([3], [1, 1, 1])]
)
def test_sizes_are_those_of_the_papers_protocol(counts, sizes):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert [len(part) for part in split_rows(labels, PAPER, seed=0)] == sizes


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_part_and_every_class_within_one_image_of_its_share(seed):
    labels = np.random.default_rng(seed).geometric(0.2, size=997) - 1
    parts = split_rows(labels, PAPER, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(997))
    for part, share in zip(parts, PAPER, strict=True):
        assert np.array_equal(part, np.sort(part))
        for label in np.unique(labels):
            assert abs((labels[part] == label).sum() - share * (labels == label).sum()) < 1


def test_seats_keep_both_margins_for_any_counts():
    random = np.random.default_rng(0)
    for _ in range(500):
        counts = random.integers(1, 30, random.integers(1, 12)).tolist()
        first, second = (Fraction(int(n), 20) for n in random.integers(1, 10, 2))
        shares = [first, second, 1 - first - second]
        seats = np.array(allocate(counts, shares))
        assert seats.sum(1).tolist() == counts
        assert (np.abs(seats - np.outer(counts, [float(share) for share in shares])) < 1 + 1e-9).all()
        assert (np.abs(seats.sum(0) - sum(counts) * np.array([float(share) for share in shares])) < 1).all()


def test_the_seed_changes_who_is_where_but_not_how_many():
    labels = np.repeat([0, 1, 2], 50)
    one, same, other = (split_rows(labels, PAPER, seed)[0].tolist() for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == len(other)


def test_the_order_within_a_class_is_shuffled():
    train, _, _ = split_rows(np.zeros(1000), PAPER, seed=0)
    assert 350 < np.mean(train) < 650  # the first 400 rows would have a mean of 200


def test_rows_of_one_origin_stay_together_and_shares_count_origins():
    origins = np.repeat([f"normal/{n}" for n in range(50)], 3)
    labels = np.repeat(np.arange(50) % 5, 3)
    parts = split_rows(labels, PAPER, seed=3, groups=origins)
    assert [len(part) for part in parts] == [60, 60, 30]
    kept_together = [set(origins[part]) for part in parts]
    assert sum(len(kept) for kept in kept_together) == 50


def test_names_give_different_seeds():
    assert named_seed(0, "a") == named_seed(0, "a")
    assert len({named_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}) == 4


@pytest.mark.parametrize(("fractions", "least"), [(PAPER, 3), ((0.9, 0.1), 6), ((0.45, 0.45, 0.1), 7)])
def test_the_smallest_count_is_the_last_that_leaves_no_part_empty(fractions, least):
    assert smallest_count(fractions) == least
    sizes = [min(len(part) for part in split_rows([0] * count, fractions, 0)) for count in range(least - 1, 50)]
    assert sizes[0] == 0
    assert min(sizes[1:]) > 0


@pytest.mark.parametrize("fractions", [[], [0.5, 0.4], [1.0, 0.0], [1.5, -0.5], [1 - 1e-9, 1e-9]])
def test_fractions_that_are_no_split_are_refused(fractions):
    with pytest.raises(Refusal, match=r"`split` should be positive fractions that sum to 1\. Got `split = \["):
        split_rows([0, 1], fractions, seed=0)
