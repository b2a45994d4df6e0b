"""A guard as an ONNX file gives the guard's verdicts in onnxruntime, or is refused with what stands in the way."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from asserts import assert_refused
from guards import DETECTORS, images, save
from torch import nn
from torchvision.transforms.functional import to_pil_image

from lightning_gradood import detectors as d
from lightning_gradood.guard import export_guard, onnx_file
from lightning_gradood.metrics import conformal_threshold
from lightning_gradood.perturbations import PatchShuffle

ROOT = Path(__file__).parents[2]
PARTS = [d.Baseline(), d.MahalanobisPP(), d.Consistency(), d.SyntheticOutliers(outliers=[PatchShuffle()]), d.KNN(k=1)]
EXPORTED = [
    "synthetic_outliers", "baseline", "energy", "gradnorm", "knn", "mahalanobis_v", "consistency", "mahalanobis_pp", "maxlogit",
    "gen", "klm", "she", "react", "dice", "ash", "scale", "tuned", "mahalanobis_pp_paper", "rmds", "rmds_pp", "vim", "fdbd",
    "nnguide", "nci", "image_statistics",
]  # fmt: skip
SERVED = """
import json, sys
from fastapi import UploadFile
from examples.serve_onnx import score
print(json.dumps([score([UploadFile(open(path, "rb")) for path in sys.argv[1:]]), "torch" in sys.modules]))
"""


@pytest.mark.parametrize("name", ["parts", *(pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED)])
def test_the_file_gives_the_guards_verdicts_in_a_process_without_torch(name, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "parts", d.Combined(PARTS, folds=3))
    guard, *_ = save(tmp_path, name)
    guard = guard.with_class_thresholds()
    found = export_guard(guard, images(8))
    assert found.pixels == "uint8"
    assert found.difference < 1e-4

    place = tmp_path / "guard.onnx"
    place.write_bytes(found.content)
    pixels = (255 * torch.cat([images(17, seed=3), images(6, seed=4) / 3])).to(torch.uint8)
    paths = [tmp_path / f"{row}.png" for row in range(len(pixels))]
    for path, one in zip(paths, pixels, strict=True):
        to_pil_image(one).save(path)
    words = [sys.executable, "-c", SERVED, *paths]
    ended = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "GUARD": place}, capture_output=True, text=True, check=True
    )
    rows, has_torch = json.loads(ended.stdout)
    assert not has_torch
    thresholds = guard.class_thresholds(guard(pixels).predictions)
    rank = 1.1 / (len(guard.calibration) + 1)
    for row, own, threshold in zip(rows, guard.score_files(paths), thresholds, strict=True):
        assert row["prediction"] == own.prediction
        assert row["probability"] == pytest.approx(own.probability, abs=1e-5)
        assert row["score"] == pytest.approx(own.score, rel=1e-4, abs=1e-4)
        assert row["p_value"] == pytest.approx(own.p_value, abs=rank)
        assert row["flagged"] == own.flagged or abs(own.score - threshold) < 1e-4

    # the rate may be given, for all classes; where there are too few images for it, none is flagged
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session, scores = onnxruntime.InferenceSession(found.content, options), guard(pixels).scores
    for rate in (0.3, 0.5, 0.001):
        (flagged,) = session.run(["flagged"], {"images": pixels.numpy(), "false_positive_rate": np.array(rate)})
        threshold = np.inf if rate == 0.001 else conformal_threshold(guard.calibration, rate)
        clear = np.abs(scores - threshold) > 1e-4
        np.testing.assert_array_equal(flagged[clear], scores[clear] > threshold)

    if name == "parts":  # another guard's file is found out before it is written
        guard.fitted = replace(guard.fitted, weights=2 * guard.fitted.weights)
        wrong = "Got `score` .* of image 0; nothing is written."
        assert_refused((lambda: onnx_file._difference(guard, found.content, pixels), wrong))


class Ending(nn.Module):
    """A network with a last module of its own."""

    def __init__(self, body, last):
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x):
        return self.last(self.body(x))


class Special(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_refused_with_what_stands_in_the_way(tmp_path, monkeypatch):
    guards = {name: save(tmp_path / name, name)[0] for name in ("gradient_knn", "lid", "energy")}
    branch, special = (guards["energy"].with_threshold(0.0) for _ in range(2))
    branch.network, special.network = (Ending(branch.network, last).eval() for last in (Branch(), Special()))
    few = images(2)
    assert_refused(
        (lambda: export_guard(guards["gradient_knn"], few), "Got `gradient_knn`, which reads gradients/uniform."),
        (lambda: export_guard(guards["lid"], few), "Got `lid`, which has a FittedLID, whose score"),
        (lambda: export_guard(branch, few), "cannot, in `last`, a Branch"),
        (lambda: export_guard(special, few), "Got prims.bessel_j0 in `last`, a Special, which it lacks"),
    )
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert_refused((lambda: export_guard(guards["energy"], few), "Got no onnxscript."))
