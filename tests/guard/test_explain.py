"""Explanations against independent truths: autograd's integral, linear scores, finite differences of pixels."""

import numpy as np
import pytest
import torch
from guards import images, readings, save

from lightning_gradood.core import LOG_FLOOR
from lightning_gradood.guard import explain, mean_readings
from lightning_gradood.guard.explain import mlp_contributions, shapley_values


def test_the_mlps_contributions_are_integrated_gradients(tmp_path):
    guard, detector, records = save(tmp_path, "mlp")
    net = guard.detector.network.double().eval()
    image = np.concatenate([records.probe(probe.name)[70] for probe in detector.probes])
    baseline = np.concatenate([guard.about.baseline[probe.name] for probe in detector.probes])
    start, end = (torch.log(torch.from_numpy(one) + LOG_FLOOR) for one in (baseline, image))
    steps = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    points = (torch.exp(start + steps[:, None] * (end - start)) - LOG_FLOOR).requires_grad_()
    (slopes,) = torch.autograd.grad(net(points).sum(), points)
    slopes = slopes * (points.detach() + LOG_FLOOR)  # the derivative in the logarithm
    expected = (slopes.mean(dim=0) * (end - start)).numpy()
    np.testing.assert_allclose(mlp_contributions(net, image, baseline), expected, atol=2e-4 * np.abs(expected).max())


def test_shapley_values_are_exact_for_sums_and_symmetric_for_products():
    rng = np.random.default_rng(0)
    weights, image, baseline = rng.normal(size=(3, 6))
    found = shapley_values(lambda rows: rows @ weights + 2.0, image, baseline, orders=1)
    np.testing.assert_allclose(found, weights * (image - baseline), rtol=1e-12)
    both = shapley_values(lambda rows: rows[:, 0] * rows[:, 1], np.array([2.0, 2.0, 5.0]), np.zeros(3), orders=1)
    np.testing.assert_allclose(both, [2.0, 2.0, 0.0])


@pytest.mark.parametrize("name", ["energy", "baseline", "gradient_gaussian", "mlp", "knn", "gradnorm"])
def test_the_heat_map_is_the_gradient_of_the_score(name, tmp_path):
    guard, *_ = save(tmp_path, name)
    guard.network.double()
    if name == "mlp":
        guard.detector.network.double()
    pixels = images(1, seed=6).double()
    (found,) = explain(guard, pixels, heat=True)
    assert found.note == ""
    assert found.heat.shape == (16, 16)
    place, step = divmod(int(found.heat.argmax()), 16), 1e-6

    def score(channel, change):
        moved = pixels.clone()
        moved[0, channel, place[0], place[1]] += change
        return guard.detector.score(readings(guard.network, guard.detector, moved, "image"))[0]

    slopes = [(score(channel, step) - score(channel, -step)) / (2 * step) for channel in range(3)]
    assert np.linalg.norm(slopes) == pytest.approx(float(found.heat[place]), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odin", "no heat map: the readings odin are not differentiated"),
        ("gradient_forest", "no heat map: the score does not change with small changes of the image"),
    ],
)
def test_where_there_is_no_heat_map_it_is_said_why(name, words, tmp_path):
    guard, *_ = save(tmp_path, name)
    (found,) = explain(guard, images(1), heat=True)
    assert (found.heat, found.note) == (None, words)


def test_explaining_leaves_the_guard_as_it_was(tmp_path):
    guard, *_ = save(tmp_path, "gradient_gaussian")
    before = guard(images(3)).scores
    with torch.inference_mode():
        explain(guard, images(2), heat=True)
    assert guard(images(3)).scores.tobytes() == before.tobytes()
    assert {parameter.dtype for parameter in guard.network.parameters()} == {torch.float32}


def test_the_baseline_is_the_mean_normal_image(tmp_path):
    guard, detector, records = save(tmp_path, "gradient_knn")
    (probe,) = detector.probes
    normal = records.where(source="normal", split="train").probe(probe.name)
    expected = np.exp(np.log(normal + LOG_FLOOR).mean(axis=0))
    np.testing.assert_allclose(mean_readings(records.where(split="train"), [probe])[probe.name], expected)
    np.testing.assert_allclose(guard.about.baseline[probe.name], expected)
