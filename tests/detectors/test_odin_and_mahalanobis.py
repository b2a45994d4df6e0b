"""ODIN and Mahalanobis choose on `val` by AUROC, ties to the first, and regress on `train`; `test` is not looked at."""

import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import ODIN, Mahalanobis
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.records import SPLITS, Records

COUNTS = {"train": 60, "val": 60, "test": 30}
TEMPERATURES, MAGNITUDES = (1.0, 1000.0), (0.0, 0.01, 0.1)
STEPS, LAYERS = (0.0, 0.01, 0.005), 4


def table(values, splits=None, counts=COUNTS):
    """Return records of a normal and an anomalous source, `values(split, shift)` giving a row of one."""
    splits = splits or [split for split in SPLITS for _ in range(counts[split])]
    parts, split_of = [], {}
    for source in ("normal", "smoke"):
        ids = [f"{source}/{row:05d}" for row in range(len(splits))]
        split_of |= dict(zip(ids, splits, strict=True))
        parts.append(Records.build(ids, source=source, values=values(np.array(splits), source == "smoke")))
    return Records.concatenate(parts).with_splits(split_of)


def odin_records(best=4, seed=0, counts=COUNTS):
    """Return probabilities that tell nothing but in one column."""
    rng = np.random.default_rng(seed)

    def values(splits, anomalous):
        found = rng.uniform(0.1, 1, size=(len(splits), 6))
        found[:, best] = rng.beta(4, 1 + 3 * anomalous, size=len(splits))
        return {"odin": found}

    return table(values, counts=counts)


def mahalanobis_records(best=2, seed=0, counts=COUNTS):
    """Return confidences of four feature layers and three magnitudes; feature layers 1 and 3 tell something, most at one
    magnitude.
    """
    rng = np.random.default_rng(seed)

    def values(splits, anomalous):
        found = -rng.chisquare(20, size=(len(splits), LAYERS, len(STEPS)))
        found[:, 1] -= 6.0 * anomalous
        found[:, 3] -= 6.0 * anomalous
        found[:, 3, best] -= 20.0 * anomalous
        flat = found.reshape(len(splits), -1)
        return {"mahalanobis/preprocessed": flat, "mahalanobis": flat[:, :: len(STEPS)]}

    return table(values, counts=counts)


def odin():
    return ODIN(TEMPERATURES, MAGNITUDES)


def mahalanobis(**settings):
    return Mahalanobis(magnitudes=STEPS, **settings)


CASES = [
    (odin, odin_records),
    *(
        (lambda p=p, e=e: mahalanobis(preprocessing=p, ensemble=e), mahalanobis_records)
        for p in (False, True)
        for e in (False, True)
    ),
]
NAMES = ["odin", "mahalanobis_v", "mahalanobis_fe", "mahalanobis_p", "mahalanobis_p_fe"]
EVERY = pytest.mark.parametrize(("make", "records"), CASES, ids=NAMES)


def learnt(make, records, seed=0):
    detector = make()
    assert detector.fit(records, seed) == []
    return detector


def same_state(first, second):
    assert first.state_dict().keys() == second.state_dict().keys()
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def with_rows(records, split, change):
    """Return the records with what `change` makes of the sources and probes of one split."""
    rows = np.flatnonzero(records.column("split") == split)
    sources = records.column("source").astype(object)
    values = {probe: records.probe(probe).copy() for probe in records.probes}
    change(rows, sources, values)
    parts = [
        Records.build(
            records.column("id")[sources == source].tolist(),
            source=source,
            values={name: array[sources == source] for name, array in values.items()},
        )
        for source in ("normal", "smoke")
    ]
    split_of = dict(zip(records.ids, records.column("split"), strict=True))
    return Records.concatenate(parts).with_splits(split_of).by_id()


def shuffled_labels(rows, sources, values):
    sources[rows] = sources[np.random.default_rng(3).permutation(rows)]


def reversed_values(rows, sources, values):
    for array in values.values():
        array[rows] = -array[rows]


def test_names_tell_the_variants_apart():
    assert [make().name for make, _ in CASES] == NAMES
    assert [probe.name for probe in mahalanobis(ensemble=True).probes] == ["mahalanobis"]
    assert [probe.name for probe in mahalanobis(preprocessing=True).probes] == ["mahalanobis/preprocessed"]
    assert (ODIN(name="mine").name, Mahalanobis(name="mine").name) == ("mine", "mine")
    assert not any(not make().needs_anomalies or make().scores_are_logits for make, _ in CASES)


@pytest.mark.parametrize("best", range(6))
def test_odin_takes_the_pair_that_is_best_on_val(best):
    records = odin_records(best)
    detector = learnt(odin, records)
    assert (detector.state_dict()["temperature"], detector.state_dict()["magnitude"]) == (
        TEMPERATURES[best // 3],
        MAGNITUDES[best % 3],
    )
    assert np.array_equal(detector.score(records), -records.probe("odin")[:, best])


@pytest.mark.parametrize("best", range(3))
def test_mahalanobis_takes_the_magnitude_that_is_best_on_val(best):
    records = mahalanobis_records(best)
    for ensemble in (False, True):
        detector = learnt(lambda e=ensemble: mahalanobis(preprocessing=True, ensemble=e), records)
        assert detector.state_dict()["magnitude"] == STEPS[best]
    alone = learnt(lambda: mahalanobis(preprocessing=True), records)
    assert np.array_equal(alone.score(records), -records.probe("mahalanobis/preprocessed")[:, 9 + best])


def contradicting(column):
    """Make one column of the grid perfect and every other one worse than chance."""

    def change(rows, sources, values):
        for name, width in (("odin", 6), ("mahalanobis/preprocessed", len(STEPS))):
            if name in values:
                grid = values[name].reshape(len(sources), -1, width)
                grid[rows] = np.where(sources[rows] == "smoke", -0.2, -0.9)[:, None, None]
                grid[rows, :, column] *= -1

    return change


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("number", [0, 3, 4], ids=["odin", "mahalanobis_p", "mahalanobis_p_fe"])
def test_the_grid_is_searched_on_val_alone(number, split):
    make, records = CASES[number]
    before = records(counts={"train": 60, "val": 60, "test": 900}).by_id()
    found, expected = learnt(make, with_rows(before, split, contradicting(0))), learnt(make, before)
    assert (found.state_dict()["magnitude"] == expected.state_dict()["magnitude"]) == (split == "test")


def test_without_preprocessing_it_is_the_last_feature_layer_s_distance():
    records = mahalanobis_records()
    assert np.array_equal(learnt(mahalanobis, records).score(records), -records.probe("mahalanobis")[:, -1])


def test_ties_go_to_the_first():
    tied = table(lambda splits, anomalous: {"odin": np.full((len(splits), 6), 0.9 - 0.2 * anomalous)})
    assert learnt(odin, tied).state_dict()["magnitude"] == MAGNITUDES[0]
    perturbed = mahalanobis_records()
    values = np.repeat(perturbed.probe("mahalanobis"), 3, axis=1)
    tied = with_rows(
        perturbed, "train", lambda rows, sources, found: found.update({"mahalanobis/preprocessed": values})
    )
    for ensemble in (False, True):
        assert (
            learnt(lambda e=ensemble: mahalanobis(preprocessing=True, ensemble=e), tied).state_dict()["magnitude"] == 0
        )


def test_the_ensemble_is_scikit_learn_s_cross_validated_regression_over_all_feature_layers():
    """On standardised values, which is how the regularisation comes to mean the same for every feature layer."""
    records = mahalanobis_records()
    detector = learnt(lambda: mahalanobis(ensemble=True), records)
    train, test = records.where(split="train"), records.where(split="test")
    scaler = StandardScaler().fit(train.probe("mahalanobis"))
    judge = LogisticRegressionCV(cv=5, max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy")
    judge.fit(scaler.transform(train.probe("mahalanobis")), train.anomalous)
    expected = judge.decision_function(scaler.transform(test.probe("mahalanobis")))
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-3, atol=1e-3)
    alone = roc_auc_score(test.anomalous, -test.probe("mahalanobis")[:, -1])
    assert (
        roc_auc_score(test.anomalous, detector.score(test)) > alone + 0.02
    )  # it reads both feature layers that tell something


@EVERY
@pytest.mark.parametrize("change", [shuffled_labels, reversed_values])
def test_nothing_that_is_fitted_follows_from_test(make, records, change):
    before = records().by_id()
    assert same_state(learnt(make, before), learnt(make, with_rows(before, "test", change)))


LEARNING = [number for number, name in enumerate(NAMES) if name != "mahalanobis_v"]  # it has nothing to fit


@pytest.mark.parametrize(("make", "records"), [CASES[n] for n in LEARNING], ids=[NAMES[n] for n in LEARNING])
def test_what_is_fitted_follows_from_val_or_train(make, records):
    before = records().by_id()
    changed = with_rows(with_rows(before, "val", reversed_values), "train", reversed_values)
    assert not same_state(learnt(make, before), learnt(make, changed))


@EVERY
def test_anomalous_images_score_higher(make, records):
    test = records().where(split="test")
    assert roc_auc_score(test.anomalous, learnt(make, records()).score(test)) > 0.75


def test_variants_of_one_detector_share_their_probes():
    detectors = [mahalanobis(preprocessing=p, ensemble=e) for p in (False, True) for e in (False, True)]
    names = [probe.name for probe in DetectionSettings(detectors=detectors).probes()]
    assert names == ["gradients/all_ones", "mahalanobis", "mahalanobis/preprocessed", "logits"]


def test_two_settings_of_one_column_are_refused():
    perturbed = [Mahalanobis(preprocessing=True), Mahalanobis(preprocessing=True, ensemble=True, magnitudes=[0, 0.5])]
    words = "should agree on what they read under one name. Got two settings of `mahalanobis/preprocessed`. Give those"
    with pytest.raises(Refusal, match=re.escape(words)):
        _ = DetectionSettings(detectors=perturbed).probes()


def test_grids_without_meaning_are_refused_when_they_are_named():
    with pytest.raises(Refusal, match=re.escape("Got `temperatures = [-1.0]`.")):
        ODIN(temperatures=[-1])
    with pytest.raises(Refusal, match=re.escape("Got `magnitudes = []`.")):
        Mahalanobis(preprocessing=True, magnitudes=[])
