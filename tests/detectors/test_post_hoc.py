"""Methods that read logits or change what a linear head is given, against pytorch-ood and OpenOOD's formulas."""

import numpy as np
import pytest
import torch
from asserts import assert_refused
from detector_cases import head_records, learnt
from made_up_records import changed
from pytorch_ood import detector as theirs
from torch import nn

from lightning_gradood.core import frozen_network
from lightning_gradood.detectors import (
    ASH,
    DICE,
    GEN,
    KNN,
    SCALE,
    SHE,
    AdaSCALE,
    KLMatching,
    MaxLogit,
    PerturbedFeaturesProbe,
    ReAct,
    Tuned,
)
from lightning_gradood.networks import CifarResNet
from lightning_gradood.probes import PENULTIMATE, feature_layer_outputs, linear_head

TABLE = head_records(classes=10, width=130, counts={"train": 80, "val": 10, "test": 30})
TRAIN, TEST = TABLE.where(split="train", source="normal"), TABLE.where(split="test")
WEIGHT, BIAS = torch.tensor(TABLE.head.weight), torch.tensor(TABLE.head.bias)


def read(records, name="features/penultimate"):
    return torch.tensor(records.probe(name))


def maps(records):
    return read(records)[:, :, None, None]


def head(features):
    return nn.functional.linear(features.flatten(1), WEIGHT, BIAS)


def on_maps(kind, **settings):
    return kind(lambda x: x, head, **settings).predict_feature_maps(maps(TEST))


def react():
    return (
        theirs.ReAct(None, head, percentile=0.8)
        .fit_feature_maps(maps(TRAIN), labels())
        .predict_feature_maps(maps(TEST))
    )


def klm():
    return theirs.KLMatching(None).fit_logits(read(TRAIN, "logits")).predict_logits(read(TEST, "logits"))


def dice():
    return theirs.DICE(None, WEIGHT, BIAS, p=0.7).fit_features(read(TRAIN), labels()).predict_features(read(TEST))


def labels():
    return torch.tensor(TRAIN.column("label"))


def openood_adascale(low=75, high=85, k1=5, k2=1, weight=10):
    """OpenOOD's AdaScalePostprocessor and AdaScaleANet, an image at a time."""

    def moves(records):
        found = []
        for feature, perturbed in zip(read(records), read(records, "features/penultimate/perturbed"), strict=True):
            order, D = feature.argsort(descending=True), len(feature)
            first, second = order[: int(D * k1 / 100)], order[: int(D * k2 / 100)]
            found.append(perturbed[first].relu().sum() + weight * (feature - perturbed)[second].abs().sum())
        return torch.stack(found)

    normal, scores = moves(TRAIN), []
    for feature, move in zip(read(TEST), moves(TEST), strict=True):
        percentile = low + float((normal > move).double().mean()) * (high - low)
        kept = len(feature) - round(len(feature) * percentile / 100)
        ratio = feature.relu().sum() / feature.relu().topk(kept).values.sum()
        scores.append(-head((feature * ratio.exp())[None]).logsumexp(dim=1))
    return torch.cat(scores)


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        (MaxLogit(), lambda: theirs.MaxLogit.score(read(TEST, "logits"))),
        (GEN(), lambda: 10 * theirs.GEN.score(read(TEST, "logits"))),  # they take the mean
        (GEN(0.5, 4), lambda: 4 * theirs.GEN.score(read(TEST, "logits"), gamma=0.5, M=4)),
        (KLMatching(), klm),
        (SHE(), lambda: theirs.SHE(None, head).fit_features(read(TRAIN), labels()).predict_features(read(TEST))),
        (ReAct(80), react),
        (ASH(65, "s"), lambda: on_maps(theirs.ASH, variant="ash-s", percentile=0.65)),
        (ASH(), lambda: on_maps(theirs.ASH, variant="ash-b", percentile=0.9)),
        (ASH(83, "p"), lambda: on_maps(theirs.ASH, variant="ash-p", percentile=0.83)),
        (SCALE(), lambda: on_maps(theirs.SCALE, percentile=0.85)),
        (DICE(70), dice),
        (AdaSCALE(), openood_adascale),
        (AdaSCALE((60.0, 95.0), 20.0, 10.0, 0.5), lambda: openood_adascale(60, 95, 20, 10, 0.5)),
    ],
    ids=lambda one: getattr(one, "name", ""),
)  # fmt: skip
def test_scores_are_the_field_s(detector, expected):
    np.testing.assert_allclose(learnt(detector, TABLE).score(TEST), expected().numpy(), rtol=1e-6)


def test_no_image_is_too_sure_or_too_empty_for_a_score():
    sure = changed(TEST, probes={"logits": np.outer(np.arange(len(TEST)), np.eye(10)[0]) * 30})
    for detector in (GEN(), KLMatching()):
        scores = learnt(detector, TABLE).score(sure)
        assert np.isfinite(scores).all()
    assert (np.diff(GEN().score(sure)) < 0).all()  # 1 − p of the surest is far below the rounding of p
    for value in (0.0, -1.0):  # no activation at all; and as after a layer that is not a ReLU
        empty = changed(TEST, probes={"features/penultimate": np.full(130, value)})
        for detector in (ReAct(), ASH(), ASH(variant="s"), SCALE(), DICE(), AdaSCALE()):
            assert np.isfinite(learnt(detector, TABLE).score(empty)).all()


def test_classes_without_a_correct_image_are_compared_with_the_mean_of_all():
    unknown, features = changed(TEST, prediction=99), read(TRAIN).mean(dim=0)
    np.testing.assert_allclose(learnt(SHE(), TABLE).score(unknown), -(read(TEST) @ features).numpy(), rtol=1e-12)


def test_the_values_that_hardly_matter_are_moved_by_the_sign_of_their_gradient():
    torch.manual_seed(0)
    network, images = CifarResNet(1, num_classes=5).eval(), torch.rand(4, 3, 12, 12)
    with frozen_network(network):
        moved = []
        for image in images.clone().requires_grad_()[:, None]:
            (gradient,) = torch.autograd.grad(network(image).max(), image)
            limit = gradient.abs().flatten().kthvalue(int(0.1 * 432)).values
            moved.append(image.detach() + 0.2 * gradient.sign() * (gradient.abs() <= limit))
        _, (expected,) = feature_layer_outputs(network, torch.cat(moved), [PENULTIMATE])
    found = PerturbedFeaturesProbe(share=0.1, step=0.2)(network, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - feature_layer_outputs(network, images, [PENULTIMATE])[1][0]).abs().max() > 0.01
    assert linear_head(network, images).weight.shape == (5, found.shape[1])


def test_tuned_is_the_candidate_that_is_best_on_val():
    candidates = [KNN(3), SCALE(10), ReAct()]
    flat = changed(TABLE, probes={"logits": 0.0})
    for first in (
        MaxLogit(),
        *candidates,
    ):  # MaxLogit tells nothing of `flat`, where equal ones are taken in their order
        fitted = learnt(Tuned([MaxLogit(), first]), flat)
        assert type(fitted) is type(learnt(first, flat))
    assert [Tuned(candidates).needs_head, Tuned([KNN(3)]).needs_head] == [True, False]
    assert_refused((lambda: learnt(ReAct(), TRAIN.only(["logits"])), "be a probe of these records"))
