"""Mahalanobis++, consistency under views, and combined p-values, against scipy, scikit-learn and plain forward passes."""

import numpy as np
import pytest
import torch
from made_up_features import feature_records
from scipy.spatial.distance import mahalanobis
from scipy.stats import combine_pvalues, kstest
from sklearn.covariance import LedoitWolf
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import (
    KNN,
    MLP,
    Baseline,
    ClassGaussian,
    Combined,
    Consistency,
    Energy,
    MahalanobisPP,
    ViewsProbe,
)
from lightning_gradood.detectors.combined import EmpiricalTail
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.gradients import AllOnes, Uniform
from lightning_gradood.networks import CifarResNet, MLPSettings
from lightning_gradood.records import Records


def classed(number=300, width=5, seed=0):
    """Values of three predicted classes with means of their own, and the classes."""
    rng = np.random.default_rng(seed)
    predictions = rng.integers(0, 3, number)
    return rng.normal(size=(number, width)) * [1, 2, 3, 4, 5] + 4.0 * predictions[:, None], predictions


def test_the_log_distance_is_scipys_with_scikit_learns_covariance():
    values, predictions = classed()
    gaussian = ClassGaussian.of(values, predictions)
    standardised = (values - values.mean(axis=0)) / values.std(axis=0)
    centres = np.stack([standardised[predictions == one].mean(axis=0) for one in range(3)])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(standardised - centres[predictions]).covariance_)
    pairs = zip(standardised, predictions, strict=True)
    expected = [2 * np.log(mahalanobis(row, centres[one], inverse)) for row, one in pairs]
    np.testing.assert_allclose(gaussian.log_distance(values, predictions), expected, rtol=1e-8)


def test_a_class_never_predicted_for_normal_images_has_the_mean_of_all():
    values, predictions = classed()
    gaussian = ClassGaussian.of(values, predictions)
    unknown = gaussian.log_distance(values.mean(axis=0)[None], np.array([7]))
    assert unknown[0] < -20  # at the mean itself


def test_mahalanobis_pp_does_not_see_the_length_of_features():
    table = feature_records()
    detector = MahalanobisPP()
    detector.fit(table, seed=0)
    longer = Records.build(
        table.ids,
        source="normal",
        values={"features/penultimate": 7.5 * table.probe("features/penultimate")},
        prediction=table.column("prediction").tolist(),
    )
    np.testing.assert_allclose(detector.score(longer), detector.score(table), rtol=1e-9)


@pytest.mark.parametrize("number", [4, 40])  # one batch of all views, and one for each
def test_views_are_changes_of_plain_forward_passes(number):
    torch.manual_seed(0)
    network, images = CifarResNet(1, num_classes=6).eval(), torch.rand(number, 3, 16, 16)
    found = ViewsProbe()(network, images)
    with torch.no_grad():
        logits = network(images).double()
        mirrored = network(images.flip(3)).double() - logits
        padded = nn.functional.pad(images, (0, 1, 0, 1), mode="replicate")
        mean = (padded[..., :-1, :-1] + padded[..., 1:, :-1] + padded[..., :-1, 1:] + padded[..., 1:, 1:]) / 4
        blurred = network(mean).double() - logits
    for row, order in enumerate(logits.argsort(dim=1, descending=True)):
        for start, change in ((0, mirrored[row, order]), (5, blurred[row, order])):
            expected = [*change[:3].tolist(), change[3:].mean().item(), change[3:].std(correction=0).item()]
            assert found[row, start : start + 5].tolist() == pytest.approx(expected, abs=1e-5)
    assert len(ViewsProbe().names(network)) == found.shape[1] == 10


@pytest.mark.parametrize("classes", [1, 2, 3, 4])
def test_few_classes_have_zeros_where_there_are_no_others(classes):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
    found = ViewsProbe(["mirror"])(network, torch.rand(3, 3, 2, 2))
    assert found.shape == (3, 5)
    assert found.isfinite().all()
    assert (found[:, min(classes, 3) : 3] == 0).all()


def test_p_values_of_fresh_normal_scores_are_uniform_and_the_tail_goes_on():
    rng = np.random.default_rng(0)
    tail = EmpiricalTail(np.sort(rng.exponential(size=4000)))
    fresh = np.exp(-tail.surprise(rng.exponential(size=4000)))
    assert kstest(fresh, "uniform").statistic < 0.05  # both samples vary
    far = tail.surprise(np.array([20.0, 40.0]))
    assert far == pytest.approx([20.0, 40.0], rel=0.2)  # of an exponential distribution −log p is the score
    assert (np.diff(tail.surprise(np.linspace(-1, 50, 1000))) >= 0).all()


def test_fisher_is_scipys_statistic():
    table = feature_records()
    members = [Energy(), KNN(k=3)]
    combined = Combined(members)
    combined.fit(table, seed=0)
    pairs = zip(combined.detectors, combined._tails, strict=True)
    p_values = np.stack([np.exp(-tail.surprise(one.score(table))) for one, tail in pairs])
    expected = [combine_pvalues(column, method="fisher").statistic for column in p_values.T]
    np.testing.assert_allclose(2 * combined.score(table), expected, rtol=1e-9)


@pytest.mark.parametrize("rule", ["fisher", "squares", "cauchy"])
def test_each_rule_rises_with_every_member(rule):
    table = feature_records()
    combined = Combined([Energy(), Baseline()], rule=rule)
    combined.fit(table, seed=0)
    surprises = np.array([[1.0, 2.0, 2.0, 9.0], [1.0, 1.0, 2.0, 9.0]])
    combined.detectors = [_Fixed(one) for one in surprises]
    combined._tails = [_Identity(), _Identity()]
    assert (np.diff(combined.score(table)) > 0).all()


class _Fixed:
    def __init__(self, scores):
        self.scores = scores

    def score(self, records):
        return self.scores


class _Identity:
    def surprise(self, scores):
        return scores


def test_members_are_scored_on_images_they_were_not_fitted_on():
    """A nearest neighbour finds a member at distance 0: in-sample p-values would call every fresh image anomalous."""
    table = feature_records(counts={"train": 200, "val": 300, "test": 10}, width=12)
    combined = Combined([KNN(k=1), MahalanobisPP()])
    combined.fit(table, seed=0)
    normal = table.where(source="normal", split="val")
    for one, tail in zip(combined.detectors, combined._tails, strict=True):
        p_values = np.exp(-tail.surprise(one.score(normal)))
        assert 0.3 < p_values.mean() < 0.6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Combined([Energy()]), r"`detectors` should be two or more with different names .* Got \['energy'\]"),
        (lambda: Combined([Energy(), Energy()]), "Got \\['energy', 'energy'\\]. Name others"),
        (lambda: Combined([Energy(), MLP([AllOnes()], MLPSettings())]), r"of which \['mlp'\] need some"),
        (lambda: Combined([Energy(), Baseline()], rule="sum"), "`rule` should be one of fisher, squares, cauchy"),
        (
            lambda: Combined([Energy(), Baseline()], folds=1),
            "`folds` from 2 to 1000. Got `rule = fisher` and `folds = 1`",
        ),
        (lambda: Consistency(["mirror", "mirror"]), "`views` should be one or more of mirror, blur, each once"),
        (lambda: ViewsProbe([]), "`views` should be one or more of mirror, blur"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, words):
    with pytest.raises(Refusal, match=words):
        make()


def test_too_few_normal_images_are_refused():
    table = feature_records(counts={"train": 19, "val": 19, "test": 5})
    with pytest.raises(Refusal, match=r"`train` should hold at least 20 normal records for `combined`. Got 19"):
        Combined([Energy(), Baseline()]).fit(table, seed=0)


def test_presets_and_detectors_add_up():
    names = {
        preset: [one.name for one in DetectionSettings(preset=preset, detectors=[Energy()]).build()]
        for preset in ("paper", "no_anomalies", "one_pass")
    }
    assert names == {
        "paper": ["mlp", "energy"],
        "no_anomalies": ["mlp", "no_anomalies", "energy"],
        "one_pass": ["mlp", "one_pass", "mlp_on_synthetic", "energy"],
    }
    designs = [AllOnes(), Uniform()]
    (one,) = [
        one for one in DetectionSettings(label_designs=designs, preset="one_pass").build() if one.name == "one_pass"
    ]
    assert [probe.name for probe in one.probes] == [
        "logits", "features/penultimate", "features/layers+spread", "gradients/all_ones", "gradients/uniform",
    ]  # fmt: skip
