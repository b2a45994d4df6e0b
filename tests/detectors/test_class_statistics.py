"""Methods on penultimate features against OpenOOD's formulas in float64; what many or few normal images change."""

import numpy as np
import pytest
from asserts import assert_refused
from detector_cases import feature_records, learnt
from made_up_records import changed
from numpy.linalg import norm, pinv
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors

from lightning_gradood.core import say_once
from lightning_gradood.detectors import FDBD, KNN, NCI, RMDS, RMDSPP, MahalanobisPP, MahalanobisPPPaper, NNGuide, ViM
from lightning_gradood.detectors.neighbours import Neighbourhoods
from lightning_gradood.records import NORMAL, LinearHead, Records

CHANCE = np.random.default_rng(0)
HEAD = LinearHead(CHANCE.normal(size=(5, 12)), CHANCE.normal(size=5))
LABELS = CHANCE.integers(0, 5, 300)
FEATURES = (np.abs(CHANCE.normal(size=(300, 12))) + HEAD.weight[LABELS]).astype(np.float32)
TRAIN, TEST = FEATURES[:200].astype(np.float64), FEATURES[200:].astype(np.float64)
OF_TRAIN = LABELS[:200]


def of(features, **columns):
    ids = [f"normal/{row:05d}" for row in range(len(features))]
    table = Records.build(ids, source=NORMAL, values={"features/penultimate": features}, **columns)
    return table.with_splits(dict.fromkeys(ids, "train")).with_head(HEAD)


def units(features):
    return features / norm(features, axis=1, keepdims=True)


def closest(train, test, relative):
    means = np.stack([train[one == OF_TRAIN].mean(0) for one in range(5)])
    precision = EmpiricalCovariance().fit(train - means[OF_TRAIN]).precision_
    left = test[:, None] - means
    distances = np.einsum("ncd,de,nce->nc", left, precision, left)
    if relative:
        centred = test - train.mean(0)
        whole = EmpiricalCovariance().fit(train - train.mean(0)).precision_
        distances -= np.einsum("nd,de,ne->n", centred, whole, centred)[:, None]
    return distances.min(1)


def vim():
    origin = -pinv(HEAD.weight) @ HEAD.bias
    values, vectors = np.linalg.eig(EmpiricalCovariance(assume_centered=True).fit(TRAIN - origin).covariance_)
    null = vectors.T[np.argsort(-values)[4:]].T
    alpha = HEAD.logits(TRAIN).max(1).mean() / norm((TRAIN - origin) @ null, axis=1).mean()
    return norm((TEST - origin) @ null, axis=1) * alpha - logsumexp(HEAD.logits(TEST), axis=1)


def fdbd():
    found = []
    for feature, logits in zip(TEST, HEAD.logits(TEST), strict=True):
        top = logits.argmax()
        others = [one for one in range(5) if one != top]
        gaps = sum((logits[top] - logits[one]) / norm(HEAD.weight[top] - HEAD.weight[one]) for one in others)
        found.append(-gaps / norm(feature - TRAIN.mean(0)))
    return found


def nci():
    weights, centred = HEAD.weight[HEAD.logits(TEST).argmax(1)], TEST - TRAIN.mean(0)
    return -(weights * centred).sum(1) / norm(centred, axis=1) - 0.001 * np.abs(TEST).sum(1)


def nnguide():
    guides = units(TRAIN) * logsumexp(HEAD.logits(TRAIN), axis=1)[:, None]
    return -np.sort(units(TEST) @ guides.T)[:, -7:].mean(1) * logsumexp(HEAD.logits(TEST), axis=1)


@pytest.mark.parametrize(("detector", "expected"), [
    (ViM(dim=4), vim), (FDBD(), fdbd), (NCI(alpha=0.001), nci), (NNGuide(k=7, share=1.0), nnguide),
    (RMDS(), lambda: closest(TRAIN, TEST, True)), (RMDSPP(), lambda: closest(units(TRAIN), units(TEST), True)),
    (MahalanobisPPPaper(), lambda: closest(units(TRAIN), units(TEST), False)),
], ids=lambda one: getattr(one, "name", ""))  # fmt: skip
def test_a_method_is_openood_s(detector, expected):
    fitted = learnt(detector, of(FEATURES[:200], label=OF_TRAIN))
    np.testing.assert_allclose(fitted.score(of(FEATURES[200:])), expected(), rtol=1e-6, atol=1e-9)


def test_by_default_dimensions_and_neighbours_follow_the_numbers_of_features_and_images():
    table = of(FEATURES[:200])
    assert learnt(ViM(), table).principal.shape == (12, 6)
    assert [(one.k, len(one.guides)) for one in (learnt(NNGuide(), table), learnt(NNGuide(k=5), table))] == [
        (20, 200),
        (5, 50),
    ]


def test_large_banks_keep_what_fits_in_the_type_of_the_records():
    many = of(CHANCE.normal(size=(30_000, 12)).astype(np.float32))
    fitted = learnt(KNN(k=3, megabytes=1), many)  # the second of two thirds, for the third of all
    assert (fitted.neighbours.rows.shape, fitted.neighbours.rows.dtype) == ((1_000_000 // 48, 12), np.float32)
    rows = fitted.neighbours.rows.astype(np.float64)
    expected = NearestNeighbors(n_neighbors=2).fit(rows).kneighbors(units(TEST))[0][:, 1]
    np.testing.assert_allclose(fitted.score(of(FEATURES[200:])), expected, rtol=1e-5)
    assert Neighbourhoods.build(many.stored("features/penultimate"), many.ids, 0, 1).features.shape == (208, 100, 12)


def test_few_images_a_class_share_one_mean_and_a_line_says_so(capfd):
    say_once.cache_clear()
    table = of(FEATURES[:200], prediction=np.arange(200) // 4)
    one = learnt(MahalanobisPP(), changed(table, prediction=0))
    scores = [learnt(MahalanobisPP(), table).score(of(FEATURES[200:], prediction=[3] * 100)) for _ in range(2)]
    np.testing.assert_allclose(scores[0], one.score(of(FEATURES[200:], prediction=[0] * 100)), rtol=1e-9)
    learnt(KNN(k=21), table)
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Fewer than 5 normal images for each predicted class",
        "k = 21 is more than a tenth of the 200 images among which neighbours are sought",
    ]


def test_of_a_single_logit_it_does_not_matter_which_class_it_is_of():
    heads = [LinearHead(sign * HEAD.weight[:2] * [[0], [1]], np.zeros(2)) for sign in (1, -1)]
    scores = [learnt(NCI(), of(FEATURES[:200]).with_head(head)).score(of(FEATURES[200:])) for head in heads]
    np.testing.assert_allclose(scores[0], scores[1])


def test_subspaces_and_networks_that_do_not_fit_are_refused():
    assert_refused(
        (lambda: learnt(ViM(dim=12), of(FEATURES)), "Got 12 for 12 features of 300 records"),
        (lambda: learnt(ViM(), feature_records()), "should know the network's last layer. Got none"),
    )
