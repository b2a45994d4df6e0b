"""Softmax, energy and GradNorm order images as pytorch-ood does on the same logits."""

import re

import numpy as np
import pytest
import torch
from made_up_features import feature_records
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from scipy.stats import rankdata

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import Baseline, Energy, GradNorm
from lightning_gradood.gradients import AllOnes
from lightning_gradood.records import Records

LOGITS = np.random.default_rng(0).normal(scale=3, size=(500, 10))
TABLE = Records.build([f"x/{row:03d}" for row in range(500)], source="x", values={"logits": LOGITS})


def test_baseline_is_the_maximum_softmax_probability():
    scores = Baseline().score(TABLE)
    theirs = MaxSoftmax.score(torch.from_numpy(LOGITS)).numpy()
    np.testing.assert_allclose(-(1 - np.exp(scores)), theirs, rtol=1e-12)
    assert np.array_equal(rankdata(scores), rankdata(theirs))


def test_baseline_tells_images_apart_whose_probability_rounds_to_one():
    logits = np.array([[50.0, 0, 0], [60.0, 0, 0], [800.0, 0, 0], [0.0, 0, 0]])
    table = Records.build(list("abcd"), source="x", values={"logits": logits})
    expected = [np.log(2) - 50, np.log(2) - 60, np.log(2) - 800, np.log(2 / 3)]
    np.testing.assert_allclose(Baseline().score(table), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 100.0])
def test_energy_is_pytorch_ood_s(temperature):
    theirs = EnergyBased.score(torch.from_numpy(LOGITS), t=temperature).numpy()
    np.testing.assert_allclose(Energy(temperature).score(TABLE), theirs, rtol=1e-12)


def test_energy_of_far_logits_does_not_overflow():
    table = Records.build(["a", "b"], source="x", values={"logits": np.array([[2e3, 0.0], [-2e3, -2e3]])})
    np.testing.assert_allclose(Energy().score(table), [-2e3, 2e3 - np.log(2)])


def test_grad_norm_calls_large_norms_normal():
    table = Records.build(["a", "b"], source="x", values={"gradnorm": np.array([[3.0], [0.5]])})
    assert GradNorm().score(table).tolist() == [-3.0, -0.5]


@pytest.mark.parametrize("detector", [Baseline(), Energy(), GradNorm()])
def test_formulas_learn_nothing_and_need_no_anomalous_image(detector):
    assert not detector.needs_anomalies
    assert not detector.scores_are_logits
    assert detector.fit(feature_records(), 0) == []
    assert detector.state_dict() == {}


def test_names_and_probes():
    found = {
        detector.name: [probe.name for probe in detector.probes] for detector in (Baseline(), Energy(), GradNorm())
    }
    assert found == {"baseline": ["logits"], "energy": ["logits"], "gradnorm": ["gradnorm"]}
    assert Energy(100.0, name="energy_100").name == "energy_100"


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperatures_without_meaning_are_refused(temperature):
    words = f"`temperature` should be above 0 and finite. Got `temperature = {temperature}`. The paper's is 1."
    with pytest.raises(Refusal, match=re.escape(words)):
        Energy(temperature)


def test_a_missing_probe_is_refused_by_the_records():
    table = Records.build(["a"], source="x", values={f"gradients/{AllOnes().name}": np.ones((1, 2))})
    with pytest.raises(Refusal, match=re.escape("should be a probe of these records. Got `name = 'logits'`")):
        Baseline().score(table)
