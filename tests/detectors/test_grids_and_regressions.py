"""ODIN and Mahalanobis choose on `val` by AUROC, ties to the first; regressions on `train` are scikit-learn's."""

import numpy as np
from asserts import assert_refused
from detector_cases import MAGNITUDES, STEPS, TEMPERATURES, feature_records, learnt, mahalanobis_records, odin_records
from made_up_records import built, changed
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from lightning_gradood.detectors import ODIN, ImageStatistics, Mahalanobis


def odin():
    return ODIN(TEMPERATURES, MAGNITUDES)


def mahalanobis(**settings):
    return Mahalanobis(magnitudes=STEPS, **settings)


def chosen(detector, table, setting="magnitude"):
    fitted, (probe,) = learnt(detector, table), detector.probes
    if isinstance(detector, ODIN):
        return dict(zip(("temperature", "magnitude"), probe.grid[fitted.column], strict=True))[setting]
    return probe.magnitudes[fitted.index]


def test_odin_takes_the_pair_and_mahalanobis_the_magnitude_that_is_best_on_val():
    for best in range(6):
        table = odin_records(best)
        assert chosen(odin(), table, "temperature") == TEMPERATURES[best // 3]
        assert chosen(odin(), table) == MAGNITUDES[best % 3]
        assert np.array_equal(learnt(odin(), table).score(table), -table.probe("odin")[:, best])
    for best in range(3):
        table, alone = mahalanobis_records(best), mahalanobis(preprocessing=True)
        for detector in (alone, mahalanobis(preprocessing=True, ensemble=True)):
            assert chosen(detector, table) == STEPS[best]
        assert np.array_equal(learnt(alone, table).score(table), -table.probe("mahalanobis/preprocessed")[:, 9 + best])
        plain = learnt(mahalanobis(), table)  # without preprocessing it is the last feature layer's distance
        assert np.array_equal(plain.score(table), -table.probe("mahalanobis")[:, -1])


def contradicting(table, split, width):
    """Make the first column of the grid perfect in one split, and every other one worse than chance."""
    (probe,) = [name for name in table.probes if name in ("odin", "mahalanobis/preprocessed")]
    rows = table.column("split") == split
    values = np.where(table.anomalous[rows] == 1, -0.2, -0.9)[:, None].repeat(table.probe(probe).shape[1], axis=1)
    values[:, ::width] *= -1
    return changed(table, rows, {probe: values})


def test_the_grid_is_searched_on_val_alone():
    counts = {"train": 60, "val": 60, "test": 400}
    for make, records, width in (
        (odin, odin_records, 6),
        (lambda: mahalanobis(preprocessing=True), mahalanobis_records, 3),
        (lambda: mahalanobis(preprocessing=True, ensemble=True), mahalanobis_records, 3),
    ):
        table = records(counts=counts)
        for split in ("test", "val"):
            found = chosen(make(), contradicting(table, split, width))
            assert (found == chosen(make(), table)) == (split == "test"), (make().name, split)


def test_ties_go_to_the_first():
    tied = built(lambda number, anomalous: {"odin": np.full((number, 6), 0.9 - 0.2 * anomalous)})
    assert chosen(odin(), tied) == MAGNITUDES[0]
    table = mahalanobis_records()
    tied = changed(table, probes={"mahalanobis/preprocessed": np.repeat(table.probe("mahalanobis"), 3, axis=1)})
    assert chosen(mahalanobis(preprocessing=True, ensemble=True), tied) == 0


def test_the_ensemble_is_scikit_learn_s_cross_validated_regression_over_all_feature_layers():
    table = mahalanobis_records()
    train, test = table.where(split="train"), table.where(split="test")
    scaler = StandardScaler().fit(train.probe("mahalanobis"))
    judge = LogisticRegressionCV(cv=5, max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy")
    judge.fit(scaler.transform(train.probe("mahalanobis")), train.anomalous)
    expected = judge.decision_function(scaler.transform(test.probe("mahalanobis")))
    scores = learnt(mahalanobis(ensemble=True), table).score(test)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
    alone = roc_auc_score(test.anomalous, -test.probe("mahalanobis")[:, -1])
    assert roc_auc_score(test.anomalous, scores) > alone + 0.02  # both layers that tell something are read


def test_the_audit_finds_a_source_that_differs_in_one_statistic_and_scores_flat_images():
    table = feature_records(gap=0.0)
    for column in range(4):
        statistics = table.probe("image_statistics").copy()
        statistics[:, column] += 0.5 * table.anomalous
        other = changed(table, probes={"image_statistics": statistics})
        detector, test = learnt(ImageStatistics(), other), other.where(split="test")
        assert roc_auc_score(test.anomalous, detector.score(test)) > 0.9, column
    flat = changed(table, probes={"image_statistics": [0.5, 0, 0, 0]})
    assert np.isfinite(detector.score(flat)).all()


def test_too_few_records_are_refused():
    few = feature_records(counts={"train": 4, "val": 9, "test": 5})
    words = "least 5 normal and 5 anomalous records for a logistic regression. Got 4 normal and 4 anomalous. Give more"
    assert_refused((lambda: learnt(ImageStatistics(), few), words))
