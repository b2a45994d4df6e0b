"""LID: the estimate of the definition, fair neighbours, and k by AUROC on `val`."""

import numpy as np
import pytest
from asserts import assert_refused
from detector_cases import feature_records, learnt
from made_up_records import changed
from sklearn.metrics import roc_auc_score

from lightning_gradood.detectors import LID
from lightning_gradood.detectors.neighbours import Neighbourhoods, local_dimensionality
from lightning_gradood.records import Records


def by_hand(distances, k):
    """Lee et al.'s line, on sorted distances without the image itself."""
    nearest = np.sort(distances)[:k]
    return -k / np.sum(np.log(nearest / nearest[-1]))


def test_the_estimate_is_the_definition_s_and_finds_the_dimension():
    distances = np.random.default_rng(0).lognormal(size=(4, 99))
    for k in (2, 10, 90):
        expected = [by_hand(row, k) for row in distances]
        np.testing.assert_allclose(local_dimensionality(distances, [5, k])[:, 1], expected, rtol=1e-10)
    for dimension in (2, 8):
        ball = np.random.default_rng(0).random((200, 2000)) ** (1 / dimension)  # distances of points that fill one
        assert local_dimensionality(ball, [90]).mean() == pytest.approx(dimension, rel=0.05)
    zero, none, equal = local_dimensionality(np.array([[0, 1, 2, 3.0], [0, 0, 0, 0], [5, 5, 5, 5]]), [4])[:, 0]
    assert 0 < zero < 0.01
    assert (none, equal) == (0.0, 1e6)


def neighbourhoods(n, seed=0):
    features = np.random.default_rng(1).normal(size=(n, 3))
    ids = [f"normal/{row}" for row in range(n)]
    return Neighbourhoods.build(features, ids, seed), features, ids


def records_of(ids, origins):
    return Records.build(ids, source="x", values={}, origin_id=origins)


def test_batches_hold_a_hundred_images_or_all():
    for n, batches, size in ((60, 1, 60), (100, 1, 100), (250, 2, 100)):
        found, features, ids = neighbourhoods(n)
        assert (found.features.shape, found.neighbours) == ((batches, size, 3), size - 1)
        rows = [ids.index(name) for name in found.ids]
        assert np.array_equal(found.features.reshape(-1, 3), features[rows])
        assert neighbourhoods(n, seed=1)[0].ids != found.ids


def test_an_image_and_its_attack_meet_the_batch_without_their_origin_and_others_as_many():
    found, features, _ = neighbourhoods(250)
    name, batch, place = found.ids[0], 0, 0
    own, row = features[int(name.split("/")[1])], [[0, 1, 2]]
    table = records_of([name, f"bim/{name}", "svhn/3"], [name, name, "svhn/3"])
    values = np.stack([own, own + 1e-9, own])
    member, twin, other = found.dimensionality(table, values, row, [9, 99])[:, :, 0]
    others = np.linalg.norm(np.delete(found.features[batch], place, axis=0) - own, axis=1)
    np.testing.assert_allclose(member, [by_hand(others, 9), by_hand(others, 99)], rtol=1e-9)
    np.testing.assert_allclose(twin, member, rtol=1e-6)
    assert np.isfinite(other).all()
    together = found.dimensionality(table, values, [[0, 1], [2]], [5, 7])  # feature layers are measured apart
    np.testing.assert_allclose(together[..., 1], found.dimensionality(table, values, [[2]], [5, 7])[..., 0])


def test_members_and_others_of_one_distribution_get_the_same_dimensions():
    """The regression must not learn who was in `train`: the estimate is no lower for those who are members."""
    members, others = np.random.default_rng(0).normal(size=(2, 2000, 8))
    ids, names = ([f"{kind}/{row}" for row in range(2000)] for kind in ("normal", "other"))
    found, layers = Neighbourhoods.build(members, ids, 0), [list(range(8))]
    inside = found.dimensionality(records_of(ids, ids), members, layers, [10, 90])[:, :, 0]
    outside = found.dimensionality(records_of(names, names), others, layers, [10, 90])[:, :, 0]
    error = np.sqrt((inside.var(axis=0) + outside.var(axis=0)) / 2000)
    assert (np.abs(inside.mean(axis=0) - outside.mean(axis=0)) < 4 * error).all()


def test_k_is_the_first_of_the_best_on_val():
    table = feature_records()
    val = table.where(split="val")
    alone = {k: roc_auc_score(val.anomalous, learnt(LID([k]), table).score(val)) for k in (3, 10, 30)}
    assert len(set(alone.values())) == 3
    grid = learnt(LID([3, 10, 30, 90]), table)  # more than there are neighbours is left out
    assert grid.k == max(alone, key=alone.get)
    assert np.array_equal(learnt(LID([30, 3, 10, 30]), table).score(table), grid.score(table))
    apart = feature_records(gap=50.0)
    assert [learnt(LID(one), apart).k for one in ([30, 10], [10, 30])] == [30, 10]  # of equals


def test_the_state_holds_clean_images_alone_and_noise_controls_are_no_neighbours():
    table = feature_records()
    assert learnt(LID([5]), table).layers == [[0, 1, 2], [3, 4, 5, 6, 7]]
    noisy = np.arange(len(table)) < 30  # half of the normal `train` records are noisy versions of the others
    controlled = changed(table, noisy, origin_id=table.column("origin_id")[30:60])
    clean = learnt(LID([5]), controlled).neighbourhoods.features[0]
    assert np.array_equal(np.sort(clean, axis=0), np.sort(table.probe("features/layers")[30:60], axis=0))


def test_too_few_clean_records_are_refused():
    few = feature_records(counts={"train": 10, "val": 10, "test": 5})
    assert_refused((lambda: learnt(LID([10, 20]), few), "at least 11 normal ones in `train` for this detector. Got 10"))
