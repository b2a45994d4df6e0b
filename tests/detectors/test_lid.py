"""LID: the estimate of the definition, fair neighbours, and k by AUROC on `val`."""

import re

import numpy as np
import pytest
from made_up_features import LAYERS, feature_records, layer_channels, rebuilt

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import LID
from lightning_gradood.detectors.lid import Neighbourhoods, local_dimensionality
from lightning_gradood.records import Records

COLUMN = "features/layers"


def by_hand(distances, k):
    """Lee et al.'s line, on sorted distances without the image itself."""
    nearest = np.sort(distances)[:k]
    return -k / np.sum(np.log(nearest / nearest[-1]))


@pytest.mark.parametrize("k", [2, 10, 90])
def test_the_estimate_is_the_definition_s(k):
    distances = np.random.default_rng(0).lognormal(size=(4, 99))
    expected = [by_hand(row, k) for row in distances]
    np.testing.assert_allclose(local_dimensionality(distances, [5, k])[:, 1], expected, rtol=1e-10)


def test_the_estimate_finds_the_dimension():
    rng = np.random.default_rng(0)
    for dimension in (2, 8):
        distances = rng.random((200, 2000)) ** (1 / dimension)  # of points that fill a ball
        assert local_dimensionality(distances, [90]).mean() == pytest.approx(dimension, rel=0.05)


def test_copies_and_equal_distances_have_finite_dimensions():
    distances = np.array([[0, 1, 2, 3.0], [0, 0, 0, 0], [5, 5, 5, 5]])
    zero, none, equal = local_dimensionality(distances, [4])[:, 0]
    assert 0 < zero < 0.01
    assert (none, equal) == (0.0, 1e6)


def neighbourhoods(n, seed=0):
    """Neighbourhoods of n made-up images, their features and ids."""
    features = np.random.default_rng(1).normal(size=(n, 3))
    ids = [f"normal/{row}" for row in range(n)]
    return Neighbourhoods.build(features, ids, seed), features, ids


def records_of(ids, origins):
    return Records.build(ids, source="x", values={}, origin_id=origins)


@pytest.mark.parametrize(("n", "batches", "size"), [(60, 1, 60), (100, 1, 100), (250, 2, 100)])
def test_batches_hold_a_hundred_images_or_all(n, batches, size):
    found, features, ids = neighbourhoods(n)
    assert found.features.shape == (batches, size, 3)
    assert found.neighbours == size - 1
    assert len(found.place_of) == batches * size
    for name, (batch, place) in found.place_of.items():
        assert np.array_equal(found.features[batch, place], features[ids.index(name)])
    assert neighbourhoods(n, seed=1)[0].place_of != found.place_of


def test_an_image_and_its_attack_meet_the_batch_without_their_origin_and_others_as_many():
    found, features, _ = neighbourhoods(250)
    name = next(iter(found.place_of))
    batch, place = found.place_of[name]
    own, row = features[int(name.split("/")[1])], [[0, 1, 2]]
    table = records_of([name, f"bim/{name}", "svhn/3"], [name, name, "svhn/3"])
    values = np.stack([own, own + 1e-9, own])
    member, twin, other = found.dimensionality(table, values, row, [9, 99])[:, :, 0]
    others = np.linalg.norm(np.delete(found.features[batch], place, axis=0) - own, axis=1)
    np.testing.assert_allclose(member, [by_hand(others, 9), by_hand(others, 99)], rtol=1e-9)
    np.testing.assert_allclose(twin, member, rtol=1e-6)
    assert np.isfinite(other).all()


def test_feature_layers_are_measured_apart():
    found, _, _ = neighbourhoods(60)
    table, values = records_of(["a", "b"], ["a", "b"]), np.random.default_rng(2).normal(size=(2, 3))
    together = found.dimensionality(table, values, [[0, 1], [2]], [5, 7])
    assert together.shape == (2, 2, 2)
    np.testing.assert_allclose(together[..., 1], found.dimensionality(table, values, [[2]], [5, 7])[..., 0])


def test_members_and_others_of_one_distribution_get_the_same_dimensions():
    """The regression must not learn who was in `train`: the estimate is no lower for those who are members."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 8))
    ids = [f"normal/{row}" for row in range(2000)]
    found = Neighbourhoods.build(features, ids, 0)
    others = rng.normal(size=(2000, 8))
    layers = [list(range(8))]
    inside = found.dimensionality(records_of(ids, ids), features, layers, [10, 90])[:, :, 0]
    names = [f"other/{row}" for row in range(2000)]
    outside = found.dimensionality(records_of(names, names), others, layers, [10, 90])[:, :, 0]
    error = np.sqrt(inside.var(axis=0) / 2000 + outside.var(axis=0) / 2000)
    assert (np.abs(inside.mean(axis=0) - outside.mean(axis=0)) < 4 * error).all()


def test_k_is_the_first_of_the_best_on_val():
    table = feature_records()
    alone = {}
    for k in (3, 10, 30):
        detector = LID([k])
        detector.fit(table, seed=0)
        scores, labels = detector.score(table.where(split="val")), table.where(split="val").anomalous
        alone[k] = (scores[labels == 1][:, None] > scores[labels == 0]).mean()
    assert len(set(alone.values())) == 3
    grid = LID([3, 10, 30])
    grid.fit(table, seed=0)
    assert int(grid.state_dict()["k"]) == max(alone, key=alone.get)
    twice = LID([30, 3, 10, 30])
    twice.fit(table, seed=0)
    assert np.array_equal(twice.score(table), grid.score(table))


def test_of_equals_the_first_is_taken():
    table = feature_records(gap=50.0)
    for grid in ([30, 10, 20], [10, 20, 30]):
        detector = LID(grid)
        detector.fit(table, seed=0)
        assert int(detector.state_dict()["k"]) == grid[0]


def test_values_beyond_the_neighbours_are_left_out():
    table = feature_records()
    small, whole = LID([10, 20]), LID([10, 20, 60, 90])
    small.fit(table, seed=0), whole.fit(table, seed=0)
    assert np.array_equal(small.score(table), whole.score(table))


def test_state_holds_what_a_score_needs():
    detector = LID([5])
    detector.fit(feature_records(), seed=0)
    state = detector.state_dict()
    assert state["clean"].shape == (1, 60, sum(LAYERS.values()))
    assert state["layer"].tolist() == [0] * 3 + [1] * 5
    assert state["weights"].shape == (len(LAYERS),)


def test_noise_controls_are_not_among_the_neighbours():
    table = feature_records()
    rows = np.arange(len(table)) < 30  # half of the normal `train` records are noisy versions of the others
    origins = table.column("origin_id").astype(object)
    origins[:30] = origins[30:60]
    names = {COLUMN: layer_channels()}
    parts = [
        Records.build(
            table.column("id")[part].tolist(),
            source=source,
            values={COLUMN: table.probe(COLUMN)[part]},
            names=names,
            origin_id=origins[part].tolist(),
        )
        for source in ("normal", "smoke")
        for part in [table.column("source") == source]
    ]
    noisy = Records.concatenate(parts).with_splits(dict(zip(table.ids, table.column("split"), strict=True)))
    detector = LID([5])
    detector.fit(noisy, seed=0)
    clean = detector.state_dict()["clean"].numpy()[0]
    assert len(clean) == 30
    expected = table.probe(COLUMN)[:60][~rows[:60]]
    assert np.array_equal(np.sort(clean, axis=0), np.sort(expected, axis=0))


def test_feature_layers_of_a_user_s_own_are_read():
    assert [probe.name for probe in LID(layers=["layer1", "layer2"]).probes] == ["features/layer1+layer2"]


@pytest.mark.parametrize("neighbours", [[], [1, 10], [0]])
def test_grids_without_meaning_are_refused(neighbours):
    words = f"`neighbours` should hold at least one number, each 2 or more. Got `neighbours = {neighbours}`. Lee et al."
    with pytest.raises(Refusal, match=re.escape(words)):
        LID(neighbours)


def test_too_few_clean_records_are_refused():
    table = feature_records(counts={"train": 10, "val": 10, "test": 5})
    with pytest.raises(
        Refusal, match=re.escape("clean normal records in `train`. Got 10 records and `neighbours = [10, 20]`")
    ):
        LID([10, 20]).fit(table, seed=0)


def test_columns_without_names_are_refused():
    table = feature_records()
    unnamed = Records(table.table.replace_schema_metadata(None).cast(without_metadata(table)))
    with pytest.raises(
        Refusal,
        match=re.escape("should say which columns of 'features/layers' belong to which feature layer. Got no"),
    ):
        LID([5]).fit(unnamed, seed=0)
    assert rebuilt(table).names(COLUMN) == layer_channels()


def without_metadata(table):
    schema = table.table.schema
    for index, field in enumerate(schema):
        schema = schema.set(index, field.remove_metadata())
    return schema
