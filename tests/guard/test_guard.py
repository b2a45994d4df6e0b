"""A guard of every kind of detector gives the scores that `detect` gave, in another process too; calls, thresholds, reasons."""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from asserts import assert_refused, state_of
from guards import BATCH, DETECTORS, images, save
from PIL import Image
from torch import nn
from torchvision.models import regnet_y_400mf
from torchvision.transforms.functional import to_pil_image

from lightning_gradood import detectors
from lightning_gradood.core import LOG_FLOOR
from lightning_gradood.detectors import Detector, score_in_blocks
from lightning_gradood.gradients import AllOnes
from lightning_gradood.guard import Guard, explain, reading_names, recipe_of
from lightning_gradood.guard.explain import mlp_contributions, shapley_values
from lightning_gradood.metrics import conformal_p_values, conformal_threshold
from lightning_gradood.networks import CifarResNet, Normalized, densenet_bc_100_12, resnet18
from lightning_gradood.records import Records, normal_records

ROUNDED = dict.fromkeys(("consistency", "combined", "synthetic_outliers", "mahalanobis_v"), 1e-5)
ROUNDED |= {"rmds": 1e-4, "rmds_pp": 1e-4}  # differences of two distances
RANKS = ("combined", "weighted_parts", "known_anomalies")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves a guard once: it, what its detector learnt, its records and its folder."""
    root = tmp_path_factory.mktemp("guards")
    return cache(lambda name: (*save(root / name, name), root / name / "guard"))


@pytest.fixture(scope="module")
def guard(saved):
    return saved("gradient_knn")[0]


def test_no_kind_of_detector_is_forgotten():
    kinds = {one for name in detectors.__all__ if isinstance(one := getattr(detectors, name), type)}
    concrete = {one for one in kinds if issubclass(one, Detector) and not one.__abstractmethods__}
    assert {one.__name__ for one in concrete} == {type(one).__name__ for one in DETECTORS.values()}


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_equal_those_of_detect_and_are_explained(name, saved):
    _, fitted, records, folder = saved(name)
    guard, normal = Guard.load(folder), normal_records(records)
    known = Records.concatenate([normal.where(split="train"), normal.where(split="val")])  # which the guard keeps
    expected = score_in_blocks(fitted, records)[: len(normal)]
    pixels = images(len(normal))
    verdict = guard(pixels)
    if name != "lid":  # which knows the images that it was fitted on, and leaves each out among its own neighbours
        assert verdict.scores.tobytes() == expected.tobytes()
    rows = [row for row, split in enumerate(normal.column("split")) if split != "train"]
    assert [one for one in rows if verdict.scores[one] != expected[one]] == []
    for other in (copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        assert other(pixels[:BATCH]).scores.tobytes() == verdict.scores[:BATCH].tobytes()
    torch.set_default_device("meta")  # the caller's, such as "cuda"
    torch.set_default_dtype(torch.float64)
    try:
        assert Guard.load(folder)(pixels[:BATCH]).scores.tobytes() == verdict.scores[:BATCH].tobytes()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert (verdict.predictions == normal.column("prediction")).all()
    assert (verdict.flagged == (verdict.scores > guard.threshold)).all()
    assert guard.calibration.tolist() == sorted(score_in_blocks(fitted, normal.where(split="val")))
    assert verdict.p_values.tolist() == conformal_p_values(guard.calibration, verdict.scores).tolist()
    alone = np.concatenate([guard(pixels[row : row + 1]).scores for row in rows[:10]])
    # float32 rounds other batches otherwise, 1e-7 of a feature, which differences of logits and distances to close means amplify
    # where two of few normal scores lie close, log p is steep between them: 6e-8 of a member is 4e-5 of it
    atol = 1e-4 if name in RANKS else 1e-6
    np.testing.assert_allclose(alone, verdict.scores[rows[:10]], rtol=ROUNDED.get(name, 1e-6), atol=atol)
    for explanation, score in zip(explain(guard, pixels[:3]), verdict.scores, strict=False):
        parts = [one.name for one in getattr(guard.saved.detector, "detectors", ())]
        several = len(parts) > 1 and name != "tuned"  # which is the best of them
        assert list(explanation.contributions) == (parts if several else reading_names(guard))
        assert explanation.score == pytest.approx(score, rel=1e-5, abs=1e-5)
        if several:
            assert explanation.baseline == pytest.approx(score_in_blocks(fitted, known).mean())
        total = sum(explanation.contributions.values())
        assert total == pytest.approx(explanation.score - explanation.baseline, rel=1e-4, abs=1e-4)


def test_another_process_gives_the_same_bits_without_lightning(saved, tmp_path):
    script = """
import json, sys
import numpy as np, torch
from lightning_gradood.guard import Guard
images = torch.load("images.pt", weights_only=True)
for number, folder in enumerate(json.loads(sys.argv[1])):
    np.save(f"{number}.npy", Guard.load(folder)(images).scores)
print(sorted({name.split(".")[0] for name in sys.modules} & {"lightning", "torchmetrics", "wandb"}))
"""
    pixels = images(20, seed=9)
    torch.save(pixels, tmp_path / "images.pt")
    folders = [str(saved(name)[3]) for name in DETECTORS]
    command = [sys.executable, "-c", script, json.dumps(folders)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr
    expected = [saved(name)[0](pixels).scores.tobytes() for name in DETECTORS]
    scored = [np.load(tmp_path / f"{number}.npy").tobytes() for number in range(len(folders))]
    assert [name for name, one, other in zip(DETECTORS, scored, expected, strict=True) if one != other] == []


def test_other_images_and_logits_that_are_not_finite_are_refused(guard, saved):
    given = [
        (torch.rand(2, 3, 8, 8), "`images` should be [N, 3, 16, 16], as the guard was fitted on. Got [2, 3, 8, 8]"),
        (torch.rand(3, 16, 16), "Got [3, 16, 16]. Use `guard.read` or `guard.score_files`"),
        (torch.full((2, 3, 16, 16), 255.0), "in [0, 1]. Got values from 255 to 255. Divide 8-bit pixels by 255"),
        (torch.full((1, 3, 16, 16), float("nan")), "Got values from nan to nan"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "Got [1, 3, 16, 16], torch.int64"),
    ]
    broken = Guard.load(saved("energy")[3])
    with torch.no_grad():
        broken.network.network.linear.weight.mul_(float("inf"))
    assert_refused(*((partial(guard, one), words) for one, words in given), (lambda: broken(images(2)), "finite"))


def test_modes_and_threads_of_the_caller_change_nothing_and_the_guard_stays_as_it_was(guard, saved):
    assert len(guard(images(0))) == 0
    eight_bit = (images(3) * 255).round().byte()
    assert guard(eight_bit).scores.tolist() == guard(eight_bit.float() / 255).scores.tolist()
    pixels, expected, before = images(5), guard(images(5)).scores.tolist(), state_of(guard.network)
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.enable_grad()):
        with mode:
            assert guard(pixels).scores.tolist() == guard(pixels.clone()).scores.tolist() == expected, mode
            explain(guard, pixels[:2], heat=True)
        assert guard(pixels).scores.tolist() == expected, mode
        assert pixels.equal(images(5))
        assert state_of(guard.network) == before
    guard = saved("mahalanobis_p_fe")[0]  # reads by hooks on layers
    given = [images(3, seed=seed) for seed in range(8)]
    expected = [guard(pixels).scores.tobytes() for pixels in given]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda pixels: guard(pixels).scores.tobytes(), given * 3)) == expected * 3


def test_thresholds_are_conformal_or_given_and_what_lies_on_one_is_not_flagged(guard):
    other, pixels = guard.with_false_positive_rate(0.25), images(30, seed=11)
    assert other.threshold == conformal_threshold(guard.calibration, 0.25)
    assert other.network is guard.network
    verdict = other(pixels)
    assert verdict.flagged.tolist() == (verdict.p_values <= 0.25).tolist()
    assert (guard.about.false_positive_rate, other.about.false_positive_rate) == (0.1, 0.25)
    assert guard.with_threshold(-np.inf)(pixels).flagged.all()
    middle = float(np.sort(verdict.scores)[15])
    assert guard.with_threshold(middle)(pixels).flagged.tolist() == [score > middle for score in verdict.scores]
    few = "at least 999 images in `val` for `--false_positive_rate = 0.001`. Got 20"
    assert_refused((lambda: guard.with_false_positive_rate(0.001), few))


def test_thresholds_by_class_flag_what_they_say_and_the_rate_is_kept_or_refused(guard, tmp_path, capsys):
    classes = np.array(guard.about.calibration_classes)
    largest = int(np.bincount(classes).argmax())
    other, verdict = guard.with_false_positive_rate(0.2).with_class_thresholds(), guard(images(30, seed=11))
    found = other(images(30, seed=11))
    own = classes == largest
    assert other.class_thresholds.of(largest) == conformal_threshold(guard.calibration[own], 0.2)
    expected = [s > other.class_thresholds.of(c) for s, c in zip(verdict.scores, verdict.predictions, strict=True)]
    assert found.flagged.tolist() == expected
    assert found.p_values.tolist() == verdict.p_values.tolist()
    assert other.with_false_positive_rate(0.25).class_thresholds.false_positive_rate == 0.25
    assert other.with_threshold(-np.inf)(images(3)).flagged.all()
    other.save(tmp_path / "saved")
    assert "The saved guard has one threshold for all classes" in capsys.readouterr().err
    few = f"`--by_class` should have at least 19 .* for a rate of 0.05. Got at most {own.sum()}."
    assert_refused((guard.with_false_positive_rate(0.05).with_class_thresholds, few))


def in_float64(mlp):
    parts = {name: part.double() for name, part in vars(mlp).items() if torch.is_tensor(part)}
    return dataclasses.replace(mlp, **parts)


def test_the_mlps_contributions_are_integrated_gradients(saved):
    guard, _, records, _ = saved("mlp")
    net = in_float64(guard.fitted.network)
    image = np.concatenate([records.probe(probe.name)[70] for probe in guard.probes])
    baseline = np.concatenate([guard.usual_readings[probe.name] for probe in guard.probes])
    start, end = (torch.log(torch.from_numpy(one) + LOG_FLOOR) for one in (baseline, image))
    steps = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    points = (start + steps[:, None] * (end - start)).requires_grad_()
    (slopes,) = torch.autograd.grad(net(points).sum(), points)
    expected = (slopes.mean(dim=0) * (end - start)).numpy()
    np.testing.assert_allclose(mlp_contributions(net, image, baseline), expected, atol=2e-4 * np.abs(expected).max())


def test_shapley_values_are_exact_for_sums_and_symmetric_for_products():
    weights, image, baseline = np.random.default_rng(0).normal(size=(3, 6))
    found = shapley_values(lambda rows: rows @ weights + 2.0, image, baseline, orders=1)
    np.testing.assert_allclose(found, weights * (image - baseline), rtol=1e-12)
    both = shapley_values(lambda rows: rows[:, 0] * rows[:, 1], np.array([2.0, 2.0, 5.0]), np.zeros(3), orders=1)
    np.testing.assert_allclose(both, [2.0, 2.0, 0.0])


def test_the_map_is_the_fall_of_the_score_of_covered_images_and_the_baseline_is_the_mean_normal_image(saved):
    for name in ("weighted_parts", "odin"):
        guard, pixels = saved(name)[0], images(1, seed=6)
        (found,) = explain(guard, pixels, heat=True)
        covered = pixels.clone()
        covered[:, :, :4, :4] = pixels.mean(dim=(2, 3), keepdim=True)
        expected = guard(pixels).scores - guard(covered).scores
        assert float(found.heat[0, 0]) == pytest.approx(
            expected.item(), rel=1e-3, abs=1e-4
        )  # which no other square covers
        assert found.heat.shape == (16, 16)
    guard, _, records, _ = saved("gradient_knn")
    (probe,) = guard.probes
    normal = np.concatenate([records.where(source="normal", split=one).probe(probe.name) for one in ("train", "val")])
    expected = np.exp(np.log(normal + LOG_FLOOR).mean(axis=0))
    np.testing.assert_allclose(guard.usual_readings[probe.name], expected)


def test_pictures_paths_and_lists_of_them_get_the_verdicts_of_their_pixels_in_plain_values(guard, tmp_path):
    pixels = (images(3, seed=8) * 255).round().byte()
    pictures, files = [to_pil_image(one) for one in pixels], [tmp_path / f"{row}.png" for row in range(3)]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    expected = guard(pixels)
    given = [pictures, files, list(pixels), tuple(map(str, files)), [pictures[0], pixels[1] / 255, files[2]]]
    assert {guard(one).scores.tobytes() for one in given} == {expected.scores.tobytes()}
    alone = [guard(one).rows() for one in (pictures[0], files[0], str(files[0]), pictures[0].convert("RGBA"))]
    assert alone == [guard(pixels[:1]).rows()] * 4
    assert json.loads(json.dumps(expected.rows())) == expected.rows()
    assert [row["prediction"] for row in expected.rows()] == [guard.about.classes[one] for one in expected.predictions]
    verdicts = [list(guard.score_files(one)) for one in (str(files[0]), files[0], tmp_path, str(tmp_path / "*.png"))]
    assert [[one.path for one in found] for found in verdicts] == [[str(files[0])]] * 2 + [[*map(str, files)]] * 2
    assert {name: value for name, value in vars(verdicts[0][0]).items() if name in expected.rows()[0]} == alone[0][0]
    assert_refused(
        (lambda: guard(tmp_path / "none.png"), "none.png` should be an image file. Got none"),
        (lambda: guard(Image.new("RGB", (8, 8))), "`picture` should be an image of 16 × 16 pixels"),
        (lambda: guard([np.zeros((16, 16, 3))]), "`picture` should be a PIL image, a tensor [C, H, W] or the path"),
    )


def test_a_guard_and_its_report_show_themselves(guard, tmp_path):
    facts = ["CifarResNet, 4 classes", "3 × 16 × 16", "gradient_knn", "at most 9.52 % of normal images exceed"]
    assert [one for one in facts if one not in repr(guard) or f"{one}" not in guard._repr_html_()] == []
    pixels = torch.cat([images(5, seed=3), images(5, seed=4) * 0.1])
    report, scores = guard.report(pixels, most=3), guard(pixels).scores
    assert [row["score"] for row in report.rows] == scores.tolist()
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert report._repr_html_() in page
    shown = [f'alt="image {row}"' for row in np.argsort(-scores)[:3]]
    assert [page.index(one) for one in shown] == sorted(page.index(one) for one in shown)
    assert (page.count("<figure"), page.count("<svg")) == (3, 1)


@dataclasses.dataclass(frozen=True)
class OwnEnergy(detectors.Energy):
    """A detector of the user's own."""


@dataclasses.dataclass(frozen=True)
class OwnDesign(AllOnes):
    """A label design of the user's own."""


def test_a_guard_names_the_packages_of_the_users_own_classes(saved):
    for name, own in (("energy", OwnEnergy()), ("gradient_knn", detectors.GradientKNN([OwnDesign()]))):
        guard = copy.copy(saved(name)[0])
        assert guard.packages == []
        guard.saved = dataclasses.replace(guard.saved, detector=own)
        assert guard.packages == [__name__.partition(".")[0]]


def test_a_guard_is_saved_with_its_threshold_and_a_network_of_memory_by_what_builds_it(guard, tmp_path):
    guard.with_threshold(0.5).save(tmp_path / "new")
    guard.save(tmp_path / "new")  # takes the older one's place
    unnamed = copy.copy(guard)
    unnamed.about = dataclasses.replace(guard.about, network={})
    unnamed.save(tmp_path / "found")
    assert Guard.load(tmp_path / "found")(images(5)).scores.tobytes() == guard(images(5)).scores.tobytes()
    unknown = copy.copy(unnamed)
    unknown.network = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), [0.5] * 3, [0.25] * 3)
    assert_refused((lambda: unknown.save(tmp_path / "other"), "should keep its constructor's arguments as attributes"))
    (tmp_path / "mine").mkdir()
    Path(tmp_path, "mine", "diary.txt").write_text("kept")
    assert_refused((lambda: guard.save(tmp_path / "mine"), "`folder` should be new, empty, or that of an older guard"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["found", "mine", "new"]
    assert Guard.load(tmp_path / "new").threshold == guard.threshold
    built = [recipe_of(one(num_classes=5, channels=1)).network for one in (resnet18, densenet_bc_100_12)]
    built += [recipe_of(one).network for one in (CifarResNet(2, 5), regnet_y_400mf(num_classes=7))]
    assert [one["class_path"].rpartition(".")[2] for one in built] == [
        "resnet18",
        "densenet_bc_100_12",
        "CifarResNet",
        "regnet_y_400mf",
    ]
    local = type("Local", (CifarResNet,), {"__module__": "__main__"})
    assert_refused((lambda: recipe_of(local(1)), "should have its class in a module. Got Local, defined in a notebook"))
