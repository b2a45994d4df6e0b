"""Deep nearest neighbours: the distances of pytorch-ood and of plain arithmetic."""

import re

import numpy as np
import pytest
import pytorch_ood.detector
import torch
from made_up_features import feature_records, rebuilt

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import KNN
from lightning_gradood.detectors.detector import neighbour_rank

PROBE = "features/penultimate"


@pytest.mark.parametrize("k", [1, 5, 50])
def test_distances_are_pytorch_ood_s_and_those_of_plain_arithmetic(k):
    table = feature_records()
    detector = KNN(k)
    detector.fit(table, seed=0)
    test = table.where(split="test")
    train = table.where(split="train", source="normal").probe(PROBE)
    scores = detector.score(test)

    theirs = pytorch_ood.detector.KNN(None, k=k).fit_features(
        torch.tensor(train), torch.zeros(len(train), dtype=torch.int64)
    )
    np.testing.assert_allclose(scores, theirs.predict_features(torch.tensor(test.probe(PROBE))), rtol=1e-7)

    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (test.probe(PROBE), train)]
    distances = np.linalg.norm(unit[0][:, None] - unit[1], axis=2)
    np.testing.assert_allclose(scores, np.sort(distances, axis=1)[:, k - 1], rtol=1e-7)


def test_only_directions_matter_and_features_of_zero_have_a_score():
    table = feature_records()
    detector = KNN(3)
    detector.fit(table, seed=0)
    longer = rebuilt(table, {PROBE: table.probe(PROBE) * 7})
    np.testing.assert_allclose(detector.score(longer), detector.score(table.by_id()), rtol=1e-9)
    assert detector.score(rebuilt(table, {PROBE: np.zeros((len(table), 6))})).tolist() == pytest.approx(
        [1.0] * len(table)
    )


def test_a_k_beyond_the_records_is_refused():
    words = (
        "be at most the number of normal records in `train`. Got `k = 61` for 60. Leave `k` out, or name a smaller one."
    )
    with pytest.raises(Refusal, match=re.escape(words)):
        KNN(61).fit(feature_records(), seed=0)
    KNN(60).fit(feature_records(), seed=0)


def test_a_k_below_one_is_refused():
    with pytest.raises(
        Refusal,
        match=re.escape("`k` should be at least 1. Got `k = 0`. Leave it out: it then follows the number of images."),
    ):
        KNN(0)


@pytest.mark.parametrize(("images", "k"), [(2, 1), (31, 1), (120, 7), (800, 50), (50000, 50)])
def test_k_follows_the_number_of_images(images, k):
    assert neighbour_rank(None, images, most=50) == k
    assert neighbour_rank(3, images, most=50) == 3


def test_few_normal_images_do_not_drown_in_their_own_spread():
    table = feature_records(counts={"train": 60, "val": 10, "test": 40})
    chosen, given = KNN(), KNN(3)
    for detector in (chosen, given):
        detector.fit(table, seed=0)
    assert chosen.score(table).tolist() == given.score(table).tolist()  # 60 // 16
