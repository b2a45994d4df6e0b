"""A model of normal images against synthetic outliers, and what it reads, against scikit-learn and plain formulas."""

import numpy as np
import pytest
import torch
from made_up_features import feature_records, with_outliers
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import MLP, Combined, Detector, Energy, Inputs, SyntheticOutliers
from lightning_gradood.detectors.inputs import confidence
from lightning_gradood.gradients import AllOnes, Uniform
from lightning_gradood.metrics import auroc
from lightning_gradood.networks import MLPSettings
from lightning_gradood.records import Records
from lightning_gradood.synthetic import Blur, Rotation, Zoom

KINDS = [Blur(), Zoom()]


def table(*kinds):
    return with_outliers(feature_records(), *(kinds or ("blur", "zoom")))


def test_the_linear_model_is_scikit_learns():
    records = table()
    detector = SyntheticOutliers(["features", "views"], outliers=KINDS, strength=0.3)
    detector.fit(records, seed=0)
    train = records.where(split="train")
    known = Records(train.table.filter(train.column("source") == "normal"))
    names = ("features/layers+spread", "views/mirror+blur")
    values = lambda rows: np.concatenate([rows.probe(name) for name in names], axis=1)  # noqa: E731
    truth = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000))
    truth.fit(values(known), known.column("attack") != "")
    np.testing.assert_allclose(detector.score(records), truth.decision_function(values(records)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_real_anomalies_and_other_kinds_are_never_looked_at(model):
    detector = SyntheticOutliers(["features"], model, outliers=KINDS)
    records = table("blur", "zoom", "rotation")
    detector.fit(records, seed=1)
    scores = detector.score(records)
    rows = (records.column("attack") != "synthetic_rotation") & (records.column("source") == "normal")
    detector.fit(Records(records.table.filter(rows)), seed=1)
    assert detector.score(records).tobytes() == scores.tobytes()
    assert auroc(scores, records.anomalous) > 0.7


def test_an_outlier_that_equals_its_image_is_none():
    records = table("rotation")
    same = Records(records.table.set_column(records.table.column_names.index("linf"), "linf", [np.zeros(len(records))]))
    with pytest.raises(Refusal, match=r"should hold synthetic outliers in `train` for `synthetic_outliers`.*Got none"):
        SyntheticOutliers(outliers=[Rotation()]).fit(same, seed=0)


def test_label_designs_are_the_experiments_unless_it_has_its_own():
    given, own = [AllOnes(), Uniform()], [Uniform(temperature=3.0)]
    reading = SyntheticOutliers(["norms"], "mlp", name="mine").with_label_designs(given)
    assert [probe.name for probe in reading.probes] == [f"gradients/{design.name}" for design in given]
    assert (reading.name, reading.model) == ("mine", "mlp")
    kept = SyntheticOutliers(["norms"], label_designs=own)
    assert kept.with_label_designs(given) is kept
    several = Combined([Energy(), SyntheticOutliers(["norms"])]).with_label_designs(given)
    assert [probe.name for probe in several.probes] == ["logits", *(f"gradients/{design.name}" for design in given)]


class Recorder(Detector):
    """Remembers what it was fitted on and asked to score."""

    name = "recorder"
    probes = ()
    needs_anomalies = False
    outliers = (Blur(),)

    def __init__(self):
        self.seen = []

    def fit(self, records, seed):
        self.seen.append(("fit", set(records.column("origin_id")), set(records.column("attack"))))
        return []

    def score(self, records):
        self.seen.append(("score", set(records.column("origin_id")), set(records.column("attack"))))
        return np.arange(len(records), dtype=np.float64)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_folds_keep_an_outlier_with_its_image():
    records, member = table("blur"), Recorder()
    Combined([Energy(), member], folds=3).fit(records, seed=0)
    folds, (last,) = member.seen[:-1], member.seen[-1:]
    for (_, fitted, kinds), (_, scored, plain) in zip(folds[::2], folds[1::2], strict=True):
        assert not fitted & scored
        assert kinds == {"", "synthetic_blur"}
        assert plain == {""}
    assert last[1] == set().union(*(scored for kind, scored, _ in folds if kind == "score"))


def test_confidence_is_what_the_formulas_say():
    logits = np.random.default_rng(0).normal(size=(7, 5)) * 4
    z = torch.from_numpy(logits)
    top, p = z.topk(3).values, z.softmax(1).amax(1)
    expected = torch.stack(
        [
            z.logsumexp(1),
            top[:, 0] - top[:, 1],
            top[:, 1] - top[:, 2],
            torch.log1p(-p),
            z.mean(1),
            z.std(1, correction=0),
        ],
        1,
    )
    np.testing.assert_allclose(confidence(logits), torch.cat([expected, top], 1).numpy(), rtol=1e-8)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_confidence_of_few_classes_is_finite(classes):
    found = confidence(np.random.default_rng(0).normal(size=(4, classes)) * 3)
    assert found.shape == (4, 9)
    assert np.isfinite(found).all()


def test_confidence_of_one_logit_is_that_of_a_sigmoid():
    logits = np.array([[2.0], [-3.0]])
    np.testing.assert_allclose(confidence(logits), confidence(np.concatenate([logits, 0 * logits], axis=1)))


def test_the_papers_mlp_reads_norms_as_they_are_and_another_their_logarithm():
    paper = MLP([AllOnes()], MLPSettings())
    assert (paper.reads_norms_alone, [probe.name for probe in paper.probes]) == (True, ["gradients/all_ones"])
    more = MLP([AllOnes()], MLPSettings(inputs=["norms", "confidence"]))
    assert [probe.name for probe in more.probes] == ["gradients/all_ones", "logits"]
    norms = np.array([[1e-5, 2.0], [0.0, 3.0]])
    records = Records.build(["a", "b"], source="normal", values={"gradients/all_ones": norms})
    np.testing.assert_allclose(Inputs(["norms"], [AllOnes()]).values(records), np.log(norms + 1e-30))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            lambda: SyntheticOutliers(["colours"]),
            r"`inputs` should be one or more of norms, features, confidence, views",
        ),
        (lambda: SyntheticOutliers([]), r"`inputs` should be one or more"),
        (lambda: SyntheticOutliers(["views", "views"]), r"each once. Got `inputs = \['views', 'views'\]`"),
        (lambda: SyntheticOutliers(outliers=[]), r"`outliers` should be one or more with different names. Got \[\]"),
        (lambda: SyntheticOutliers(outliers=[Blur(), Blur(high=0.2)]), r"Got \['blur', 'blur'\]. Name others"),
        (lambda: SyntheticOutliers(model="tree"), r"`model` should be linear or mlp.*Got `model = tree`"),
        (lambda: SyntheticOutliers(strength=0.0), r"`strength` above 0.*`strength = 0.0`"),
        (lambda: MLP([AllOnes()], MLPSettings(inputs=["norm"])), r"`inputs` should be .*Got `inputs = \['norm'\]`"),
    ],
)
def test_bad_settings_are_refused(made, words):
    with pytest.raises(Refusal, match=words):
        made()
