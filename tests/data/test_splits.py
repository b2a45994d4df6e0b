"""Splits: exact sizes, every row once, in proportion, independent of what they should not depend on; and their manifest."""

import json
from fractions import Fraction

import numpy as np
from asserts import assert_refused

from lightning_gradood.data import drawn_splits
from lightning_gradood.data.splits import Manifest, allocate, split_rows

PAPER = (0.4, 0.4, 0.2)
SVHN_TEST = [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595]  # images of each digit, 26,032 together


def test_sizes_are_those_of_the_papers_protocol_and_rows_of_one_origin_stay_together():
    expected = {(1000,) * 10: [4000, 4000, 2000], tuple(SVHN_TEST): [10413, 10413, 5206], (3,): [1, 1, 1]}
    for counts, sizes in expected.items():
        labels = np.repeat(np.arange(len(counts)), counts)
        assert [len(part) for part in split_rows(labels, PAPER, seed=0)] == sizes
    origins = np.repeat([f"normal/{n}" for n in range(50)], 3)
    parts = split_rows(np.repeat(np.arange(50) % 5, 3), PAPER, seed=3, groups=origins)
    assert [len(part) for part in parts] == [60, 60, 30], "shares count origins"
    assert sum(len(set(origins[part])) for part in parts) == 50


def test_every_row_is_in_one_part_and_every_class_within_one_image_of_its_share():
    for seed in range(5):
        labels = np.random.default_rng(seed).geometric(0.2, size=997) - 1
        parts = split_rows(labels, PAPER, seed)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(997))
        for part, share in zip(parts, PAPER, strict=True):
            assert np.array_equal(part, np.sort(part))
            for label in np.unique(labels):
                assert abs((labels[part] == label).sum() - share * (labels == label).sum()) < 1


def test_images_of_classes_too_small_for_every_part_have_the_same_chance_and_are_spread_over_the_classes():
    counts = np.random.default_rng(0).integers(1, 8, 150)
    labels, taken = np.repeat(np.arange(150), counts), 60
    chosen = np.zeros(len(labels))
    for seed in range(300):
        rows = split_rows(labels, [taken / len(labels), 1 - taken / len(labels)], seed)[0]
        assert (len(rows), np.bincount(labels[rows]).max()) == (taken, 1)
        chosen[rows] += 1
    for some in (labels < 50, labels >= 100, counts[labels] < 3, counts[labels] > 5):
        assert abs(chosen[some].mean() / 300 - taken / len(labels)) < 0.01


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
    train, _, _ = split_rows(np.zeros(1000), PAPER, seed=0)
    assert 350 < np.mean(train) < 650, "shuffled within a class: the first 400 rows would have a mean of 200"


IDS = {name: [f"{name}/{n:02d}" for n in range(count)] for name, count in {"normal": 20, "near": 10, "far": 7}.items()}
LABELS = {name: [n % 2 for n in range(len(ids))] for name, ids in IDS.items()}


def manifest(names=("normal", "near", "far"), seed=0):
    drawn = {name: drawn_splits(name, IDS[name], LABELS[name], PAPER, seed) for name in names}
    return Manifest(seed, list(PAPER), drawn)


def test_every_id_has_one_split_by_its_source_s_name_and_the_seed_whatever_stands_beside_it(tmp_path):
    made = manifest()
    assert [[*one.values()] for one in made.counts.values()] == [[8, 8, 4], [4, 4, 2], [3, 3, 1]]
    assert set(made.split_of) == {name for ids in IDS.values() for name in ids}
    assert all(ids == sorted(ids) for parts in made.sources.values() for ids in parts.values())
    assert made == manifest(("far", "normal", "near"))
    assert made.sources["normal"] == manifest(("normal",)).sources["normal"]
    assert made.sources != manifest(seed=1).sources
    made.write(tmp_path / "splits.json")
    assert json.loads((tmp_path / "splits.json").read_text()) == vars(manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]
    one, other = (drawn_splits(name, range(50), [0] * 50, PAPER, 0) for name in ("a", "b"))
    assert one != other, "sources of one size are split differently"


def test_splits_that_cannot_be_are_refused():
    few, fractions = ["few/0", "few/1"], "positive and sum to 1. Got `split.fractions = ["
    wrong = ([], [0.5, 0.4], [1.0, 0.0], [1.5, -0.5], [1 - 1e-9, 1e-9], [float("nan"), 1], [float("inf"), 1])
    assert_refused(
        *((lambda one=one: split_rows([0, 1], one, 0), fractions) for one in wrong),
        (lambda: drawn_splits("few", few, [0, 0], PAPER, 0), "`few` should have enough images to fill every split"),
    )
