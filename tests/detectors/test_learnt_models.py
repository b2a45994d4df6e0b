"""The paper's MLP and the models against synthetic outliers: what they read, what they learn from, when they stop."""

import numpy as np
import pytest
import torch
from asserts import assert_refused
from detector_cases import feature_records, learnt, with_outliers
from made_up_records import PROBE, Spy, changed, records
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_gradood.detectors import (
    MLP,
    Combined,
    Consistency,
    GradientGaussian,
    MahalanobisPP,
    SyntheticOutliers,
    TensorReadings,
    ViewsSoftmax,
    WeightedParts,
)
from lightning_gradood.detectors.logistic import fit_balanced_logistic
from lightning_gradood.detectors.mlp import Inputs, confidence
from lightning_gradood.gradients import AllOnes
from lightning_gradood.metrics import auroc
from lightning_gradood.networks import MLPSettings
from lightning_gradood.perturbations import Blur, Rotation, Zoom
from lightning_gradood.records import Records

SETTINGS = MLPSettings(width=16, max_epochs=12, batch_size=32, learning_rate=1e-2)
KINDS = [Blur(), Zoom()]


def test_it_learns_what_can_be_learnt_and_scores_are_logits():
    table = records()
    test, detector = table.where(split="test"), learnt(MLP([AllOnes()], SETTINGS), table)
    scores = detector.score(test)
    assert roc_auc_score(test.anomalous, scores) > 0.95
    assert scores.min() < 0 < 1 < scores.max()
    assert [point["epoch"] for point in detector.curves] == list(range(12))
    assert not np.array_equal(learnt(MLP([AllOnes()], SETTINGS), table, seed=1).score(test), scores)


def test_norms_are_read_as_logarithms_or_as_they_are():
    more = MLP([AllOnes()], MLPSettings(inputs=["norms", "confidence"]))
    assert [probe.name for probe in more.probes] == ["gradients/all_ones", "logits"]
    norms = np.array([[1e-5, 2.0], [0.0, 3.0]])
    table = Records.build(["a", "b"], source="normal", values={PROBE: norms})
    np.testing.assert_allclose(Inputs(["norms"], [AllOnes()]).values(TensorReadings.of(table)), np.log(norms + 1e-30))
    raw = MLP([AllOnes()], MLPSettings(log_values=False)).inputs
    np.testing.assert_array_equal(raw.values(TensorReadings.of(table)), norms)


@pytest.mark.parametrize("model", ["linear", "deviations"])
def test_the_linear_models_are_scikit_learns_on_values_or_deviations_from_shrunk_class_means_and_their_sizes(model):
    table = with_outliers(feature_records(), "blur", "zoom")
    table = changed(table, prediction=np.arange(len(table)) % 4)
    detector = learnt(SyntheticOutliers(["features", "views"], model, outliers=KINDS, strength=0.3), table)
    table = changed(table, prediction=np.arange(len(table)) % 5)  # one class of which nothing is known
    known = table.where(split="train", source="normal")
    probes = ("features/layers+spread", "views/mirror+blur")
    values = lambda rows: np.concatenate([rows.probe(name) for name in probes], axis=1)  # noqa: E731
    labels = known.column("attack") != ""
    rows, classes = values(known)[~labels], (np.arange(len(table)) % 4)[np.isin(table.ids, known.ids)]
    own = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    centre = [sum(own[classes[~labels] == one]) / (sum(classes[~labels] == one) + 5) for one in range(4)] + [0 * own[0]]

    def read(some, predicted):
        if model == "linear":
            return values(some)
        found = (values(some) - rows.mean(axis=0)) / rows.std(axis=0) - np.stack(centre)[predicted]
        return np.hstack([np.clip(found, -4, 4), np.abs(np.clip(found, -4, 4))])

    truth = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000))
    truth.fit(read(known, classes), labels)
    expected = truth.decision_function(read(table, table.column("prediction")))
    np.testing.assert_allclose(detector.score(table), expected, rtol=1e-3, atol=1e-3)  # ours is in float32


@pytest.mark.parametrize("directions", [90, 10, 0])  # some images are others' copies or mixtures, or all are one
def test_fewer_images_than_values_are_fitted_by_products_of_images_and_few_columns_at_a_time(directions):
    draws, labels = np.random.default_rng(0), np.arange(90) // 60
    values = draws.normal(size=(90, directions)) @ draws.normal(size=(directions, 400)) / 9
    values[:, :20] += labels[:, None] * (directions > 0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight="balanced", tol=1e-9, max_iter=9999))
    expected = model.fit(values, labels).decision_function(values)
    blocks = [(first, values[:, first : first + 60]) for first in range(0, 400, 60)]
    found = fit_balanced_logistic(blocks, 400, labels, 0.3)
    np.testing.assert_allclose(found.score(torch.from_numpy(values)), expected, rtol=1e-3, atol=1e-3)


def test_the_softmax_of_views_is_that_of_the_mean_logits():
    logits, mirror, blur = np.random.default_rng(0).normal(size=(3, 50, 3))
    order = np.argsort(-logits, axis=1)
    changes = [np.take_along_axis(view - logits, order, axis=1) for view in (mirror, blur)]
    views = np.hstack([np.pad(one, ((0, 0), (0, 2))) for one in changes])  # with three classes there are no others
    table = Records.build(
        [str(row) for row in range(50)], source="normal", values={"logits": logits, "views/mirror+blur": views}
    )
    mean = np.exp((logits + mirror + blur) / 3)
    p = np.take_along_axis(mean / mean.sum(axis=1, keepdims=True), order, axis=1)[:, 0]
    np.testing.assert_allclose(ViewsSoftmax().score(table), np.log(1 - p))


def test_real_anomalies_other_kinds_and_outliers_that_equal_their_image_are_never_looked_at():
    table = with_outliers(feature_records(), "blur", "zoom", "rotation")
    rows = (table.column("attack") != "synthetic_rotation") & (table.column("source") == "normal")
    for model in ("linear", "mlp"):
        detector = SyntheticOutliers(["features"], model, outliers=KINDS)
        scores = learnt(detector, table, seed=1).score(table)
        assert learnt(detector, Records(table.table.filter(rows)), seed=1).score(table).tobytes() == scores.tobytes()
        assert auroc(scores, table.anomalous) > 0.7
    words = "should hold synthetic outliers in `train` for `synthetic_outliers`.*Got none"
    assert_refused((lambda: learnt(SyntheticOutliers(outliers=[Rotation()]), changed(table, linf=0.0)), words))


def test_folds_keep_an_outlier_with_its_image():
    member = Spy(needs_anomalies=False, outliers=[Blur()])
    learnt(Combined([GradientGaussian(), member], folds=3), with_outliers(records(), "blur"))
    (*known, last), scored = (
        [(set(part.column("origin_id")), set(part.column("attack"))) for part in parts]
        for parts in (member.fits, member.scored)
    )
    for (origins, kinds), (held_out, plain) in zip(known, scored, strict=True):
        assert not origins & held_out
        assert (kinds, plain) == ({"", "synthetic_blur"}, {""})
    assert last[0] == set().union(*(held_out for held_out, _ in scored))


def test_weights_are_learnt_on_kinds_of_outliers_and_folds_that_the_fits_have_not_seen():
    kinds, member = ["blur", "zoom", "rotation"], Spy(needs_anomalies=False, outliers=[Blur(), Zoom(), Rotation()])
    learnt(WeightedParts([GradientGaussian(), member], folds=3), with_outliers(records(), *kinds))
    *known, last = [(set(part.column("origin_id")), sorted(set(part.column("attack")) - {""})) for part in member.fits]
    scored = [[one for one, fit in zip(member.scored, member.after, strict=True) if fit == 1 + row] for row in range(9)]
    held = [set().union(*(one.column("origin_id") for one in blocks)) for blocks in scored]
    apart = [{*np.concatenate([one.column("attack") for one in blocks])} - {""} for blocks in scored]
    assert apart == 3 * [set(), {"synthetic_blur", "synthetic_rotation"}, {"synthetic_zoom"}]
    assert not any(origins & apart for (origins, _), apart in zip(known, held, strict=True))
    halves = [[f"synthetic_{kind}" for kind in part] for part in (sorted(kinds), ["zoom"], ["blur", "rotation"])]
    assert [seen for _, seen in known] == 3 * halves
    assert last == (held[0] | held[3] | held[6], halves[0])


def test_a_detector_that_adds_nothing_gets_no_weight_and_its_probe_is_not_read():
    table = with_outliers(feature_records(), "blur", "zoom")
    noise = np.random.default_rng(5).normal(size=(len(table), 10))
    members = [MahalanobisPP(), Consistency(), SyntheticOutliers(["features"], outliers=KINDS)]
    detector = WeightedParts(members, name="several")
    fitted = learnt(detector, changed(table, probes={"views/mirror+blur": noise}))
    kept = detector.kept(fitted)
    assert [one.name for one in kept.detectors] == list(fitted.names) == ["mahalanobis_pp", "synthetic_outliers"]
    assert [probe.name for probe in kept.probes] == ["features/penultimate", "features/layers+spread"]
    np.testing.assert_allclose(fitted.weights.sum(), 2)
    assert fitted.remark.startswith("`several` weighs mahalanobis_pp ")
    assert fitted.remark.endswith("add nothing clear: consistency.")
    assert len(learnt(detector, table).names) == 3


def test_confidence_is_what_the_formulas_say_for_any_number_of_classes():
    logits = np.random.default_rng(0).normal(size=(7, 5)) * 4
    z = torch.from_numpy(logits)
    top, surest = z.topk(3).values, z.softmax(1).amax(1)
    gaps = [top[:, 0] - top[:, 1], top[:, 1] - top[:, 2]]
    first = [z.logsumexp(1), *gaps, torch.log1p(-surest), z.mean(1), z.std(1, correction=0)]
    expected = torch.cat([torch.stack(first, 1), top], 1).numpy()
    np.testing.assert_allclose(confidence(z), expected, rtol=1e-8)
    for classes in (1, 2, 3):
        assert confidence(z[:, :classes]).isfinite().all()
    one = z[:, :1]  # is that of a sigmoid
    np.testing.assert_allclose(confidence(one), confidence(torch.cat([one, 0 * one], dim=1)))
