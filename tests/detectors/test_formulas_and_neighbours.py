"""Softmax, energy, GradNorm and nearest neighbours are those of pytorch-ood and of plain arithmetic."""

import numpy as np
import pytest
import pytorch_ood.detector
import torch
from asserts import assert_refused
from detector_cases import feature_records, learnt
from made_up_records import changed
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from scipy.stats import rankdata

from lightning_gradood.detectors import KNN, Baseline, Energy, GradNorm, MahalanobisPP
from lightning_gradood.detectors.detector import neighbour_rank
from lightning_gradood.records import Records

LOGITS = np.random.default_rng(0).normal(scale=3, size=(500, 10))
FEATURES = "features/penultimate"


def of(probe, values):
    return Records.build([f"x/{row:03d}" for row in range(len(values))], source="x", values={probe: np.array(values)})


def test_baseline_is_the_maximum_softmax_probability_without_its_ties():
    scores, theirs = Baseline().score(of("logits", LOGITS)), MaxSoftmax.score(torch.from_numpy(LOGITS)).numpy()
    np.testing.assert_allclose(-(1 - np.exp(scores)), theirs, rtol=1e-12)
    assert np.array_equal(rankdata(scores), rankdata(theirs))
    sure = of("logits", [[50.0, 0, 0], [60.0, 0, 0], [800.0, 0, 0], [0.0, 0, 0]])
    expected = [np.log(2) - 50, np.log(2) - 60, np.log(2) - 800, np.log(2 / 3)]
    np.testing.assert_allclose(Baseline().score(sure), expected, rtol=1e-12)


def test_energy_is_pytorch_ood_s_does_not_overflow_and_grad_norm_calls_large_norms_normal():
    for temperature in (1.0, 0.5, 100.0):
        theirs = EnergyBased.score(torch.from_numpy(LOGITS), t=temperature).numpy()
        np.testing.assert_allclose(Energy(temperature).score(of("logits", LOGITS)), theirs, rtol=1e-12)
    far = of("logits", [[2e3, 0.0], [-2e3, -2e3]])
    np.testing.assert_allclose(Energy().score(far), [-2e3, 2e3 - np.log(2)])
    assert GradNorm().score(of("gradnorm", [[3.0], [0.5]])).tolist() == [-3.0, -0.5]


@pytest.mark.parametrize("k", [1, 5, 50])
def test_distances_are_pytorch_ood_s_and_those_of_plain_arithmetic(k):
    table = feature_records()
    test, train = table.where(split="test").probe(FEATURES), table.where(split="train", source="normal").probe(FEATURES)
    scores = learnt(KNN(k), table).score(table.where(split="test"))
    theirs = pytorch_ood.detector.KNN(None, k=k).fit_features(torch.tensor(train), torch.zeros(len(train)).long())
    np.testing.assert_allclose(scores, theirs.predict_features(torch.tensor(test)), rtol=1e-7)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (test, train)]
    distances = np.linalg.norm(unit[0][:, None] - unit[1], axis=2)
    np.testing.assert_allclose(scores, np.sort(distances, axis=1)[:, k - 1], rtol=1e-7)


def test_only_directions_matter_and_features_of_zero_have_a_score():
    table = feature_records()
    longer = changed(table, probes={FEATURES: table.probe(FEATURES) * 7.5})
    for detector in (learnt(KNN(3), table), learnt(MahalanobisPP(), table)):
        np.testing.assert_allclose(detector.score(longer), detector.score(table), rtol=1e-9)
    zero = changed(table, probes={FEATURES: 0.0})
    assert learnt(KNN(3), table).score(zero) == pytest.approx(np.ones(len(table)))


def test_k_follows_the_number_of_images():
    for images, k in ((2, 1), (31, 1), (120, 7), (800, 50), (50000, 50)):
        assert (neighbour_rank(None, images, most=50), neighbour_rank(3, images, most=50)) == (k, 3)
    table = feature_records()
    assert learnt(KNN(), table).score(table).tolist() == learnt(KNN(60 // 16), table).score(table).tolist()
    learnt(KNN(60), table)


def test_settings_without_meaning_and_records_that_do_not_do_are_refused():
    words = "`temperature` should be above 0 and finite. Got `temperature = {}`. The paper's is 1."
    too_few = "should hold at least 61 normal ones in `train` for this detector. Got 60"
    missing = "should be a probe of these records. Got `name = 'logits'`"
    assert_refused(
        *((lambda t=t: Energy(t), words.format(t)) for t in (0.0, -1.0, float("inf"), float("nan"))),
        (lambda: KNN(0), "`k` should be at least 1. Got `k = 0`. Leave it out: it then follows"),
        (lambda: learnt(KNN(61), feature_records()), too_few),
        (lambda: Baseline().score(of("gradnorm", [[3.0], [0.5]])), missing),
    )
