"""A guard of every kind of detector gives the scores that `detect` gave, in another process too."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from guards import DETECTORS, images, save
from programs import run_program

from lightning_gradood import detectors
from lightning_gradood.detectors import Detector, score_in_blocks
from lightning_gradood.guard import Guard, explain, reading_names
from lightning_gradood.metrics import conformal_p_values
from lightning_gradood.records import normal_records

EVERY = pytest.mark.parametrize("name", DETECTORS)
_SCORE = """
import json, sys
import numpy as np, torch
from lightning_gradood.guard import Guard
for folder in json.loads(sys.argv[1]):
    images = torch.load(folder + "/../images.pt", weights_only=True)
    np.save(folder + "/../scores.npy", Guard.load(folder)(images).scores)
"""


def test_no_kind_of_detector_is_forgotten():
    kinds = {one for name in detectors.__all__ if isinstance(one := getattr(detectors, name), type)}
    concrete = {one for one in kinds if issubclass(one, Detector) and not one.__abstractmethods__}
    assert concrete == {type(one) for one in DETECTORS.values()}


@EVERY
def test_scores_equal_those_of_detect(name, tmp_path):
    _, detector, records = save(tmp_path, name)
    guard, normal = Guard.load(tmp_path / "guard"), normal_records(records)
    expected = score_in_blocks(detector, records)[: len(normal)]
    pixels = images(len(normal))
    verdict = guard(pixels)
    if name != "lid":  # which knows the images that it was fitted on, and leaves each out among its own neighbours
        assert verdict.scores.tobytes() == expected.tobytes()
    rows = [row for row, split in enumerate(normal.column("split")) if split != "train"]
    assert [one for one in rows if verdict.scores[one] != expected[one]] == []
    assert (verdict.predictions == normal.column("prediction")).all()
    assert (verdict.flagged == (verdict.scores > guard.threshold)).all()
    assert verdict.p_values.tolist() == conformal_p_values(guard.calibration, verdict.scores).tolist()
    alone = np.concatenate([guard(pixels[row : row + 1]).scores for row in rows[:10]])
    # float32 rounds other batches otherwise, 1e-7 of a feature, which differences of logits and distances to close means amplify
    rtol = (
        1e-5
        if name in ("consistency", "combined", "synthetic_outliers", "mahalanobis_v", "mahalanobis_pp_layers")
        else 1e-6
    )
    np.testing.assert_allclose(alone, verdict.scores[rows[:10]], rtol=rtol, atol=1e-6)


def test_another_process_gives_the_same_bits(tmp_path):
    folders, expected = [], []
    for name in DETECTORS:
        (tmp_path / name).mkdir()
        guard, *_ = save(tmp_path / name, name)
        pixels = images(20, seed=9)
        torch.save(pixels, tmp_path / name / "images.pt")
        folders.append(str(tmp_path / name / "guard"))
        expected.append(guard(pixels).scores)
    run_program([sys.executable, "-c", _SCORE, json.dumps(folders)]).check_returncode()
    for folder, scores in zip(folders, expected, strict=True):
        assert np.load(f"{folder}/../scores.npy").tobytes() == scores.tobytes(), folder


@EVERY
def test_contributions_sum_to_the_score_minus_the_baseline(name, tmp_path):
    guard, *_ = save(tmp_path, name)
    pixels = images(3, seed=4)
    scores = guard(pixels).scores
    for explanation, score in zip(explain(guard, pixels), scores, strict=True):
        assert list(explanation.contributions) == reading_names(guard)
        assert explanation.score == pytest.approx(score, rel=1e-5, abs=1e-5)
        total = sum(explanation.contributions.values())
        assert total == pytest.approx(explanation.score - explanation.baseline, rel=1e-4, abs=1e-4)
    (one,) = explain(guard, pixels[:1])
    assert len(one.contributions) == sum(len(mean) for mean in guard.about.baseline.values())


def test_a_guard_needs_no_lightning(tmp_path):
    save(tmp_path, "gradient_knn")
    script = (
        "import sys, torch; from lightning_gradood.guard import Guard; "
        f"Guard.load({str(tmp_path / 'guard')!r})(torch.rand(2, 3, 16, 16)); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'lightning', 'torchmetrics', 'wandb', 'jsonargparse'}))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
