"""Attackers who know the guard: slopes are those of finite differences, balls are kept, the guard itself judges, checks bite."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from asserts import assert_refused
from guards import DETECTORS, images, network, save
from sklearn.metrics import roc_auc_score

from lightning_gradood.audit import Audit, Ball, Joint, Orthogonal, Queries, Robustness, Selective, Target
from lightning_gradood.gradients import AllOnes, Predicted, norms_with_graph, squared_gradient_norms

ARRAYS = {"lid", "nac", "grood", "gradpca", "adascale", "pytorch_ood", "pytorch_ood_gradnorm", "image_statistics"}
QUICK = {"mlp", "gradient_knn", "knn", "mahalanobis_pp", "odin", "consistency", "baseline"}
SLOPES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in DETECTORS if name not in ARRAYS
]
SHORT = [Joint(steps=8, searches=3), Selective(steps=8), Orthogonal(steps=8), Queries(queries=20)]


def target_in_float64(guard):
    fitted, model = guard.fitted, getattr(guard.fitted, "network", None)
    if model is not None:
        tensors = {name: one.double() for name, one in vars(model).items() if isinstance(one, torch.Tensor)}
        fitted = replace(fitted, network=replace(model, **tensors))
    return Target(guard.network.double(), guard.probes, fitted, guard.calibration, 0.2, guard.about.detector_name)


@pytest.mark.parametrize("name", SLOPES)
def test_the_slope_of_a_score_is_that_of_finite_differences_of_the_score_itself(name, tmp_path):
    guard, *_ = save(tmp_path, name)
    target, pixels = target_in_float64(guard), (images(3, seed=8) * 0.8 + 0.1).double()
    way = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = pixels.clone().requires_grad_()
    found = target.follow(leaves)
    (gradient,) = torch.autograd.grad(found.scores.sum(), leaves)
    ahead, behind = (target.judge(pixels + move * way) for move in (1e-8, -1e-8))
    expected = (ahead.scores - behind.scores) / 2e-8
    assert expected.abs().max() > 0
    torch.testing.assert_close((gradient * way).flatten(1).sum(1), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.scores.detach(), target.judge(pixels).scores, rtol=1e-7, atol=1e-9)


def test_norms_with_a_graph_are_those_of_the_engine():
    net, pixels = network(), images(5, seed=3)
    found, logits = norms_with_graph(net, pixels.requires_grad_(), [AllOnes(), Predicted()])
    torch.testing.assert_close(found.detach(), squared_gradient_norms(net, pixels, [AllOnes(), Predicted()]))
    torch.testing.assert_close(logits, net(pixels))
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_keeps_images_near_and_in_range(norm):
    clean = images(4)
    ball = Ball(clean, 0.3, norm)
    for found in (ball.random(torch.arange(4), "test", 0), ball.step(clean, torch.randn_like(clean), 5.0)):
        change = (found - clean).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert size.max() <= 0.3 + 1e-6
        assert size.min() > 0.1
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("name", ["mahalanobis_pp", pytest.param("combined", marks=pytest.mark.slow)])
def test_attackers_who_know_the_guard_reach_more_with_larger_changes_and_the_guard_judges(name, tmp_path):
    guard, *_ = save(tmp_path, name)
    pixels = images(8, seed=8)
    labels = guard(pixels).predictions
    settings = Audit(attacks=SHORT, radii=(0.1, 1e-4), batch_size=5, rates=[0.05])
    found = guard.audit(pixels, labels, settings)
    assert found.share(0.1) >= 0.75
    assert found.share(1e-4) <= 0.25
    by = {(one.attack, one.radius): one for one in found.rows}
    assert (by["none", 0.0].shares, by["none", 0.0].misclassified) == (
        {"0.05": 0.0},
        0.0,
    )  # all are predicted as labelled
    assert all(one.misclassified >= one.shares["0.05"] for one in found.rows)
    assert by["joint", 0.1].by_step[0] >= by["joint", 1e-4].by_step[-1]  # what is found in a ball is in larger ones
    for radius in (1e-4, 0.1):
        best = max(by[one.name, radius].shares["0.05"] for one in SHORT)
        assert by["all", radius].shares["0.05"] >= best
    assert by["selective", 0.1].by_step == sorted(by["selective", 0.1].by_step)
    assert len(by["selective", 0.1].by_step) == 9  # the random start, seven steps, and the place where the eighth ends
    assert "Do not rely" in found.sentence or "nothing is known of larger changes" in found.sentence
    assert found.detector == guard.about.identity
    card = found.save(tmp_path / "guard")
    assert card.name == "robustness.json"
    assert Robustness.load(tmp_path / "guard").sentence == found.sentence
    card.write_text('{"rows": [], "checks": [{"question": 1}]}')
    assert_refused((lambda: Robustness.load(tmp_path / "guard"), "a card that `attack` has written"))
    assert guard.audit(pixels, labels, settings).rows == found.rows


@pytest.mark.parametrize("goal", ["hide", "alarm"])
def test_attackers_hide_anomalous_images_and_raise_false_alarms(goal, tmp_path):
    guard, *_ = save(tmp_path, "mahalanobis_pp")
    pixels = images(8, seed=2) * 0.5 + 0.5 if goal == "hide" else images(8, seed=1)
    found = guard.audit(pixels, settings=Audit(goal, attacks=SHORT, radii=(0.1, 0.9, 1.0), rates=[0.05]))
    assert {one["class_path"].rpartition(".")[2] for one in found.attacks} == {"Selective", "Queries"}
    assert found.share(0.1) > found.share(0.0, "none")
    areas = {one.attack: one.auroc for one in found.rows if one.radius in (0.0, 0.1)}
    if goal == "hide":  # against normal images, before and after
        assert areas["none"] == roc_auc_score(
            np.repeat([0, 1], [len(guard.calibration), 8]), [*guard.calibration, *guard(pixels).scores]
        )
        assert areas["all"] < areas["none"]


def test_an_audit_that_is_too_weak_says_so(tmp_path):
    guard, *_ = save(tmp_path, "mahalanobis_pp")
    found = guard.audit(images(6, seed=8), settings=Audit(attacks=[Selective(steps=1)], radii=(0.001,), rates=[0.05]))
    failed = [one.question for one in found.checks if not one.passed]
    assert "Does an attack without a bound reach every image?" in failed
    assert "too weak" in found.sentence


def test_an_audit_is_refused_at_the_door_and_detectors_of_arrays_are_asked_alone(tmp_path):
    guard, *_ = save(tmp_path, "lid")
    found = guard.audit(images(2), settings=Audit(attacks=[Queries(queries=3)], radii=(0.1,), rates=[0.1]))
    assert [one.attack for one in found.rows] == ["none", "queries", "all", "noise"]
    assert_refused(
        (lambda: Audit(radii=(8.0,)), "at most 1"),
        (lambda: Audit("alarm", attacks=[Joint()]), "`--attacks` should have one for `alarm`"),
        (
            lambda: guard.audit(images(2), settings=Audit(attacks=[Selective(steps=1)], rates=[0.1])),
            "operations on tensors",
        ),
    )
