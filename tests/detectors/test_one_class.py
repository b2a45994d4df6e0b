"""Detectors that know normal images only: they learn from nothing else, find what is unusual, and say so by quantile."""

import re

import numpy as np
import pytest
from made_up_records import PROBE, records
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import GradientForest, GradientGaussian, GradientKNN
from lightning_gradood.detectors.class_gaussian import ClassGaussian
from lightning_gradood.detectors.detector import normal_training_records
from lightning_gradood.detectors.gradient_novelty import log_norms
from lightning_gradood.evaluation import evaluate
from lightning_gradood.gradients import AllOnes, Predicted
from lightning_gradood.metrics import auroc
from lightning_gradood.records import Records

DETECTORS = {"gaussian": GradientGaussian, "knn": GradientKNN, "forest": GradientForest}
EVERY = pytest.mark.parametrize("kind", DETECTORS.values(), ids=DETECTORS)


def changed(table, rows=None, **columns):
    """Return the records with other columns in some rows, or in all; `probe` stands for the probe's values."""
    rows = np.ones(len(table), bool) if rows is None else rows
    values, given = table.probe(PROBE).copy(), {}
    for name, new in columns.items():
        column = values if name == "probe" else given.setdefault(name, table.column(name).copy())
        column[rows] = new
    parts = [
        Records.build(
            [table.ids[row]],
            source=str(table.column("source")[row]),
            values={PROBE: values[[row]]},
            **{name: [column[row]] for name, column in given.items()},
        )
        for row in range(len(table))
    ]
    return Records.concatenate(parts).with_splits(dict(zip(table.ids, table.column("split"), strict=True)))


def states(detector, table, seed=0):
    """What is learnt, as lists."""
    detector.fit(table, seed)
    return {name: tensor.tolist() for name, tensor in detector.state_dict().items()}


@EVERY
def test_only_normal_train_records_are_looked_at(kind):
    table, rng = records(width=4), np.random.default_rng(1)
    train, anomalous = table.column("split") == "train", table.anomalous == 1
    expected = states(kind(), table)
    assert states(kind(), changed(table, anomalous, probe=1.0, prediction=3)) == expected
    assert states(kind(), changed(table, ~train, probe=1.0, prediction=3)) == expected
    assert states(kind(), Records(table.table.filter(train & ~anomalous))) == expected
    other = changed(table, train & ~anomalous, probe=rng.lognormal(size=(60, 4)))
    assert states(kind(), other) != expected


@EVERY
def test_the_threshold_flags_at_most_5_percent_of_normal_val_images(kind):
    table = records({"train": 60, "val": 200, "test": 30})
    outcome = evaluate(kind(), table, source="smoke", seed=0, resamples=20)
    val = outcome.scores["val"]
    assert np.mean(val.scores[val.labels == 0] <= outcome.threshold) == pytest.approx(0.95, abs=0.0051)
    assert not kind().needs_anomalies
    outside = changed(table, table.anomalous == 1, probe=1.0)
    assert evaluate(kind(), outside, source="smoke", seed=0, resamples=20).threshold == outcome.threshold


@EVERY
@pytest.mark.parametrize("gap", [4.0, -4.0])
def test_what_is_unusual_is_found_whichever_side_it_lies_on(kind, gap):
    outcome = evaluate(kind(), records(gap=gap, width=6), source="smoke", seed=0, resamples=20)
    assert outcome.metrics["test"]["auroc"] > 0.95
    assert outcome.metrics["test"]["accuracy_at_val_threshold_balanced"] > 0.85


@EVERY
def test_a_class_is_compared_with_its_own_kind(kind):
    """Norms of class 1 lie 8 higher; an image of class 0 with the norms of class 1 is unusual although they are not."""
    table = records({"train": 100, "val": 60, "test": 30}, gap=0.0, width=5)
    second = np.arange(len(table)) % 2 == 1
    shifted = np.where(second[:, None], np.exp(8.0), 1.0) * table.probe(PROBE)
    anomalous = table.anomalous == 1
    prediction = np.where(anomalous, ~second, second).astype(int)
    detector = kind()
    test = changed(table, probe=shifted, prediction=prediction)
    assert evaluate(detector, test, source="smoke", seed=0, resamples=20).metrics["test"]["auroc"] > 0.99


@EVERY
def test_an_unseen_class_and_constant_or_vanished_norms_give_finite_scores(kind):
    table = records(width=4)
    values = table.probe(PROBE).copy()
    values[:, 0], values[:, 1] = 0.0, 7.0
    values[::5, 2] = 0.0
    detector = kind()
    detector.fit(changed(table, probe=values), 0)
    scores = detector.score(changed(table, probe=values, prediction=99))
    assert np.isfinite(scores).all()
    assert scores.dtype == np.float64


def test_the_forest_follows_its_seed():
    table = records(width=4)
    assert states(GradientForest(), table, seed=1) != states(GradientForest(), table, seed=2)


def test_the_gaussian_is_scikit_learn_s_mahalanobis_distance_when_it_whitens():
    table = records(width=5)
    detector = GradientGaussian(whitening=1.0)
    detector.fit(table, 0)
    logs = np.log(table.probe(PROBE))
    train = logs[(table.column("split") == "train") & (table.anomalous == 0)]
    standardised = (train - train.mean(axis=0)) / train.std(axis=0)
    expected = LedoitWolf().fit(standardised).mahalanobis((logs - train.mean(axis=0)) / train.std(axis=0))
    assert detector.score(table) == pytest.approx(expected, rel=1e-8)


def test_the_gaussian_is_euclid_s_distance_when_it_does_not():
    table = records(width=5)
    detector = GradientGaussian(whitening=0.0)
    detector.fit(table, 0)
    logs = np.log(table.probe(PROBE))
    train = logs[(table.column("split") == "train") & (table.anomalous == 0)]
    expected = (((logs - train.mean(axis=0)) / train.std(axis=0)) ** 2).sum(axis=1)
    assert detector.score(table) == pytest.approx(expected, rel=1e-9)


def test_the_neighbour_is_the_k_th_nearest_or_the_last():
    table = records(width=5)
    logs = np.log(table.probe(PROBE))
    train = logs[(table.column("split") == "train") & (table.anomalous == 0)]
    standard = lambda values: (values - train.mean(axis=0)) / train.std(axis=0)  # noqa: E731  # one line says it
    distances = NearestNeighbors(n_neighbors=60).fit(standard(train)).kneighbors(standard(logs))[0]
    for k, column in ((1, 0), (7, 6), (1000, 59)):
        detector = GradientKNN(k=k, whitening=0.0)
        detector.fit(table, 0)
        assert detector.score(table) == pytest.approx(distances[:, column], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("number", [2, 40, 400])  # of normal records; a tree is grown on 256 at most
def test_the_forest_s_scores_are_scikit_learn_s(number):
    table = records({"train": number, "val": 5, "test": 50}, width=4)
    detector = GradientForest(trees=30)
    detector.fit(table, 7)
    normal = normal_training_records(table)
    gaussian = ClassGaussian.of(log_norms(normal, [AllOnes()]), normal.column("prediction"), whitening=0.0)
    values = lambda rows: gaussian.whitened(log_norms(rows, [AllOnes()]), rows.column("prediction"))  # noqa: E731
    truth = IsolationForest(n_estimators=30, max_samples="auto", random_state=7).fit(values(normal))
    assert np.array_equal(detector.score(table), -truth.score_samples(values(table)))


@EVERY
def test_label_designs_are_read_side_by_side(kind):
    detector = kind(label_designs=[AllOnes(), Predicted()])
    assert [probe.name for probe in detector.probes] == ["gradients/all_ones", "gradients/predicted"]
    assert [probe.name for probe in kind().probes] == ["gradients/all_ones"]
    table = records(gap=0.0)
    strange = np.where(table.anomalous[:, None] == 1, 1.0, table.probe(PROBE))
    parts = Records.build(table.ids, source="normal", values={"gradients/predicted": strange})
    both = table.by_id().join(parts)
    detector.fit(both, 0)
    scores = detector.score(both)
    assert auroc(scores, both.anomalous) > 0.85


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            lambda: GradientGaussian(whitening=1.5),
            "`whitening` should be between 0 (standardised) and 1 (whitened). Got",
        ),
        (lambda: GradientKNN(k=0), "`k` should be at least 1. Got `k = 0`."),
        (lambda: GradientForest(trees=0), "`trees` should be at least 1. Got `trees = 0`."),
        (
            lambda: GradientGaussian().fit(records().where(source="smoke"), 0),
            "`records` should hold at least 2 normal ones in `train` for a one-class detector. Got 0. Take more",
        ),
    ],
)
def test_settings_without_meaning_are_refused(settings, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        settings()
