"""Calling a guard: refusals, threads, modes of the caller, thresholds, devices."""

import threading

import numpy as np
import pytest
import torch
from guards import images, save

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import conformal_threshold


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """Return a guard that reads gradients."""
    return save(tmp_path_factory.mktemp("guard"), "gradient_knn")[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            torch.rand(2, 3, 8, 8),
            r"`images` should be \[N, 3, 16, 16\], as the guard was fitted on. Got \[2, 3, 8, 8\]",
        ),
        (torch.rand(3, 16, 16), r"Got \[3, 16, 16\]. Use `guard.read` or `guard.score_files`"),
        (torch.rand(2, 1, 16, 16), r"Got \[2, 1, 16, 16\]"),
        (torch.full((2, 3, 16, 16), 255.0), r"`images` should be pixels in \[0, 1\]. Got 255 to 255. Divide 8-bit"),
        (torch.full((1, 3, 16, 16), float("nan")), "Got nan to nan"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "should be float in .* or uint8. Got torch.int64"),
        (-torch.rand(1, 3, 16, 16), r"`images` should be pixels in \[0, 1\]"),
    ],
)
def test_other_images_are_refused(guard, given, words):
    with pytest.raises(Refusal, match=words):
        guard(given)


def test_no_images_give_no_verdicts(guard):
    verdict = guard(images(0))
    assert len(verdict) == len(verdict.flagged) == len(verdict.predictions) == 0


def test_eight_bit_images_are_divided(guard):
    pixels = (images(3) * 255).round().byte()
    assert guard(pixels).scores.tolist() == guard(pixels.float() / 255).scores.tolist()


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.set_grad_enabled(True),
    ],
    ids=["no_grad", "inference_mode", "autocast", "grad"],
)
def test_modes_of_the_caller_change_nothing(guard, mode):
    pixels, expected = images(5), guard(images(5)).scores
    with mode():
        assert guard(pixels).scores.tolist() == expected.tolist()
        assert guard(pixels.clone()).scores.tolist() == expected.tolist()
    assert pixels.equal(images(5))
    assert not guard.network.training
    assert all(parameter.grad is None for parameter in guard.network.parameters())


def test_many_threads_get_the_verdicts_of_one(guard):
    given = [images(3, seed=seed) for seed in range(12)]
    expected = [guard(pixels).scores for pixels in given]
    found, errors = [None] * len(given), []

    def work(number):
        try:
            for _ in range(3):
                found[number] = guard(given[number]).scores
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def test_another_rate_is_the_conformal_threshold_of_the_calibration_images(guard):
    other = guard.with_false_positive_rate(0.25)
    assert other.threshold == conformal_threshold(guard.calibration, 0.25)
    assert other.network is guard.network
    pixels = images(30, seed=11)
    verdict = other(pixels)
    assert verdict.flagged.tolist() == (verdict.p_values <= 0.25).tolist()
    assert guard.about.false_positive_rate == 0.1
    assert guard.with_threshold(-np.inf)(pixels).flagged.all()
    with pytest.raises(
        Refusal, match=r"should have at least 999 images in `val` for `--false_positive_rate = 0.001`. Got 20"
    ):
        guard.with_false_positive_rate(0.001)
    with pytest.raises(Refusal, match="`--false_positive_rate` should be between 0 and 1"):
        guard.with_false_positive_rate(1.5)


def test_a_guard_stays_where_it_is_put(guard, tmp_path):
    assert guard.to("cpu") is guard
    assert guard.device == torch.device("cpu")


def test_logits_that_are_not_finite_are_refused(tmp_path):
    guard, *_ = save(tmp_path, "energy")
    with torch.no_grad():
        guard.network.network.linear.weight.mul_(float("inf"))
    with pytest.raises(Refusal, match="finite"):
        guard(images(2))
