"""Detectors that need no anomalies, against pytorch-ood, scipy, scikit-learn, plain forward passes and plain arithmetic."""

import numpy as np
import pytest
import pytorch_ood.detector
import torch
from asserts import assert_refused
from detector_cases import feature_records, learnt
from made_up_records import PROBE, changed, records
from scipy.spatial.distance import mahalanobis
from scipy.stats import combine_pvalues, kstest, rankdata
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch import nn

from lightning_gradood import detectors
from lightning_gradood.detectors import KNN, Baseline, Combined, Energy, GradientGaussian, GradientKNN, MahalanobisPP
from lightning_gradood.detectors.combined import EmpiricalTail
from lightning_gradood.detectors.gaussians import ClassGaussian
from lightning_gradood.detectors.neighbours import Neighbours
from lightning_gradood.detectors.tensor_scores import of_class
from lightning_gradood.evaluation import evaluate
from lightning_gradood.gradients import AllOnes
from lightning_gradood.metrics import conformal_p_values
from lightning_gradood.networks import CifarResNet, MLPSettings
from lightning_gradood.records import Records

ON_GRADIENTS = pytest.mark.parametrize("kind", [GradientGaussian, GradientKNN])
LOGITS = np.random.default_rng(0).normal(scale=3, size=(500, 10))
FEATURES = "features/penultimate"


def of(probe, values):
    return Records.build([f"x/{row:03d}" for row in range(len(values))], source="x", values={probe: np.array(values)})


def test_baseline_is_the_maximum_softmax_probability_without_its_ties():
    scores = Baseline().score(of("logits", LOGITS))
    theirs = pytorch_ood.detector.MaxSoftmax.score(torch.from_numpy(LOGITS)).numpy()
    np.testing.assert_allclose(-(1 - np.exp(scores)), theirs, rtol=1e-12)
    assert np.array_equal(rankdata(scores), rankdata(theirs))
    sure = of("logits", [[50.0, 0, 0], [60.0, 0, 0], [800.0, 0, 0], [0.0, 0, 0]])
    expected = [np.log(2) - 50, np.log(2) - 60, np.log(2) - 800, np.log(2 / 3)]
    np.testing.assert_allclose(Baseline().score(sure), expected, rtol=1e-12)


def test_energy_is_pytorch_ood_s_and_does_not_overflow():
    for temperature in (1.0, 0.5, 100.0):
        theirs = pytorch_ood.detector.EnergyBased.score(torch.from_numpy(LOGITS), t=temperature).numpy()
        np.testing.assert_allclose(Energy(temperature).score(of("logits", LOGITS)), theirs, rtol=1e-12)
    far = of("logits", [[2e3, 0.0], [-2e3, -2e3]])
    np.testing.assert_allclose(Energy().score(far), [-2e3, 2e3 - np.log(2)])


@pytest.mark.parametrize("k", [1, 5, 50])
def test_distances_are_pytorch_ood_s(k):
    table = feature_records()
    test, train = table.where(split="test").probe(FEATURES), table.where(split="train", source="normal").probe(FEATURES)
    scores = learnt(KNN(k), table).score(table.where(split="test"))
    theirs = pytorch_ood.detector.KNN(None, k=k).fit_features(torch.tensor(train), torch.zeros(len(train)).long())
    np.testing.assert_allclose(scores, theirs.predict_features(torch.tensor(test)), rtol=1e-7)


def test_only_directions_matter_and_features_of_zero_have_a_score():
    table = feature_records()
    longer, zero = (changed(table, probes={FEATURES: table.probe(FEATURES) * factor}) for factor in (7.5, 0.0))
    for detector in (learnt(KNN(3), table), learnt(MahalanobisPP(), table)):
        np.testing.assert_allclose(detector.score(longer), detector.score(table), rtol=1e-9)
    assert learnt(KNN(3), table).score(zero) == pytest.approx(np.ones(len(table)))


def test_k_follows_the_number_of_images():
    for images, k in ((2, 1), (31, 1), (120, 7), (800, 50), (50000, 50)):
        rows = np.empty((images, 1))
        assert (Neighbours.of(rows, None, 50).rank, Neighbours.of(rows, 3, 50).rank) == (k, min(3, images))


def test_classes_are_labels_where_all_records_have_one_that_is_an_output():
    table = changed(of("logits", LOGITS[:4]), prediction=[7, 7, 7, 7])
    for labels, expected in (([0, 9, 3, 3], [0, 9, 3, 3]), ([0, -1, 3, 3], [7] * 4), ([0, 10, 3, 3], [7] * 4)):
        assert detectors.classes_of(changed(table, label=labels)).tolist() == expected


def outcome_of(detector, table):
    return evaluate(detector, table, source="smoke", seed=0, resamples=20)


@pytest.mark.parametrize(("count", "width"), [(5000, 5), (30, 40)])  # of which the first are several blocks of rows
def test_the_log_distance_is_scipys_with_scikit_learns_covariance(count, width):
    rng = np.random.default_rng(0)
    predictions = rng.integers(0, 3, count)  # three classes with means of their own
    values = rng.normal(size=(count, width)) * np.arange(1, width + 1) + 4.0 * predictions[:, None]
    gaussian = ClassGaussian.of(values, predictions)
    standardised = (values - values.mean(axis=0)) / values.std(axis=0)
    centres = np.stack([standardised[predictions == one].mean(axis=0) for one in range(3)])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(standardised - centres[predictions]).covariance_)
    pairs = zip(standardised, predictions, strict=True)
    expected = [2 * np.log(mahalanobis(row, centres[one], inverse)) for row, one in pairs]
    np.testing.assert_allclose(
        gaussian.log_distance(*map(torch.from_numpy, (values, predictions))), expected, rtol=1e-8
    )


def test_distances_of_gradients_are_scikit_learn_s():
    """Mahalanobis' where the Gaussian whitens, Euclid's where not; that to the k-th nearest neighbour, or the last."""
    table = records(width=5)
    rows, values = (table.column("split") == "train") & (table.anomalous == 0), np.log(table.probe(PROBE))
    values = (values - values[rows].mean(axis=0)) / values[rows].std(axis=0)
    for whitening, expected in (
        (1.0, LedoitWolf().fit(values[rows]).mahalanobis(values)),
        (0.0, np.square(values).sum(axis=1)),
    ):
        scores = learnt(GradientGaussian(whitening=whitening), table).score(table)
        assert scores == pytest.approx(expected, rel=1e-8), whitening
    distances = NearestNeighbors(n_neighbors=60).fit(values[rows]).kneighbors(values)[0]
    for k, column in ((1, 0), (7, 6), (1000, 59)):
        scores = learnt(GradientKNN(k=k, whitening=0.0), table).score(table)
        assert scores == pytest.approx(distances[:, column], rel=1e-6, abs=1e-6), k


@ON_GRADIENTS
def test_what_is_unusual_is_found_on_either_side_at_the_rate_that_was_chosen(kind):
    for gap in (4.0, -4.0):
        outcome = outcome_of(kind(), records({"train": 60, "val": 200, "test": 30}, gap=gap, width=6))
        assert outcome.metrics["test"]["auroc"] > 0.95
        assert np.mean(outcome.scores["val"].normal <= outcome.threshold) == pytest.approx(0.95, abs=0.0051)


@ON_GRADIENTS
def test_a_class_is_compared_with_its_own_kind(kind):
    """Norms of class 1 lie 8 higher; an image of class 0 with the norms of class 1 is unusual although they are not."""
    table = records({"train": 100, "val": 60, "test": 30}, gap=0.0, width=5)
    second = np.arange(len(table)) % 2 == 1
    shifted = np.where(second[:, None], np.exp(8.0), 1.0) * table.probe(PROBE)
    prediction = np.where(table.anomalous == 1, ~second, second).astype(int)
    test = changed(table, probes={PROBE: shifted}, prediction=prediction)
    assert outcome_of(kind(), test).metrics["test"]["auroc"] > 0.99


def test_an_unknown_class_gets_the_other_row():
    rows, predictions = np.array([[1.0], [2.0]]), torch.tensor([7, 3, -1, 4, 8, 99])
    assert of_class(predictions, np.array([3, 7]), rows, 5.0).flatten().tolist() == [2, 1, 5, 5, 5, 5]
    assert of_class(predictions[2:3], np.array([-1]), rows[:1]).tolist() == [[1.0]]  # records without predictions


@ON_GRADIENTS
def test_vanished_norms_and_unknown_classes_have_scores(kind):
    table, values = records(gap=0.0), records(gap=0.0).probe(PROBE).copy()
    values[:, 0], values[:, 1], values[::5, 2] = 0.0, 7.0, 0.0
    vanished = changed(table, probes={PROBE: values})
    assert np.isfinite(learnt(kind(), vanished).score(changed(vanished, prediction=99))).all()


@pytest.mark.parametrize("number", [4, 40])  # one batch of all views, and one for each
def test_views_are_changes_of_plain_forward_passes(number):
    network, images = CifarResNet(1, num_classes=6).eval(), torch.rand(number, 3, 16, 16)
    found = detectors.ViewsProbe()(network, images)
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
    for classes in (1, 2, 3, 4):  # zeros where there are no others
        few = detectors.ViewsProbe()(nn.Sequential(nn.Flatten(), nn.Linear(12, classes)), torch.rand(3, 3, 2, 2))
        assert few.isfinite().all()
        assert (few[:, min(classes, 3) : 3] == 0).all()


def test_log_p_is_that_of_ranks_at_normal_scores_and_runs_straight_between_them():
    normal = np.sort(np.random.default_rng(2).normal(size=200))
    tail = EmpiricalTail(normal)
    ranked = normal[normal < tail.exponential[0]]
    np.testing.assert_allclose(tail.surprise(ranked), -np.log(conformal_p_values(normal, ranked)), atol=1e-12)
    middle = (ranked[1:] + ranked[:-1]) / 2
    np.testing.assert_allclose(tail.surprise(middle), (tail.surprise(ranked[1:]) + tail.surprise(ranked[:-1])) / 2)
    places = np.r_[
        normal, tail.exponential[0]
    ]  # where the tail starts, and where ranks change, rounding decides nothing
    np.testing.assert_allclose(tail.surprise(places + 1e-9), tail.surprise(places - 1e-9), atol=1e-4)
    assert EmpiricalTail(np.ones(5)).surprise(np.array([0.0, 1.0, 2.0])).tolist()[0] == 0.0


def test_p_values_of_fresh_normal_scores_are_uniform_and_the_tail_goes_on():
    rng = np.random.default_rng(0)
    tail = EmpiricalTail(np.sort(rng.exponential(size=4000)))
    fresh = np.exp(-tail.surprise(rng.exponential(size=4000)))
    assert kstest(fresh, "uniform").statistic < 0.05  # both samples vary
    far = tail.surprise(np.array([20.0, 40.0]))
    assert far == pytest.approx([20.0, 40.0], rel=0.2)  # of an exponential distribution −log p is the score
    assert (np.diff(tail.surprise(np.linspace(-1, 50, 1000))) >= 0).all()


def test_fisher_is_scipys_statistic_and_the_other_rule_sums_squares():
    table, found = feature_records(), {}
    for rule in ("fisher", "squares"):
        detector = learnt(Combined([Energy(), KNN(k=3)], rule=rule), table)
        pairs = zip(detector.members, detector.tails, strict=True)
        surprises = np.stack([tail.surprise(one.score(table)) for one, tail in pairs])
        found[rule] = detector.score(table)
    expected = [combine_pvalues(np.exp(-column), method="fisher").statistic for column in surprises.T]
    np.testing.assert_allclose(2 * found["fisher"], expected, rtol=1e-9)
    np.testing.assert_allclose(found["squares"], np.square(surprises).sum(axis=0), rtol=1e-9)


def test_members_are_scored_on_images_they_were_not_fitted_on():
    """A nearest neighbour finds a member at distance 0: in-sample p-values would call every fresh image anomalous."""
    table = feature_records(counts={"train": 200, "val": 300, "test": 10}, width=12)
    detector = learnt(Combined([KNN(k=1), MahalanobisPP()]), table)
    normal = table.where(source="normal", split="val")
    for one, tail in zip(detector.members, detector.tails, strict=True):
        assert 0.3 < np.exp(-tail.surprise(one.score(normal))).mean() < 0.6


def test_settings_and_records_that_cannot_be_are_refused():
    few, both = feature_records(counts={"train": 19, "val": 19, "test": 5}), [Energy(), Baseline()]
    trained = detectors.MLP([AllOnes()], MLPSettings())
    assert_refused(
        (lambda: Baseline().score(of("norms", [[3.0]])), "be a probe of these records. Got `name = 'logits'`"),
        (lambda: learnt(KNN(61), feature_records()), "at least 61 normal ones in `train` for this detector. Got 60"),
        (lambda: Combined([Energy()]), "`detectors` should be two or more with different names that need no"),
        (lambda: Combined([Energy(), Energy()]), "Got ['energy', 'energy']. Name others"),
        (lambda: Combined([Energy(), trained]), "of which ['mlp'] need some"),
        (lambda: Combined(both, folds=1), "`folds` should be 2 or more. Got `folds = 1`"),
        (lambda: learnt(Combined(both), few), "at least 20 normal ones in `train` for this detector."),
        (lambda: learnt(GradientGaussian(), records().where(source="smoke")), "should hold at least 2 normal ones"),
    )
