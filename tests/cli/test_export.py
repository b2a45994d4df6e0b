"""The verb `export`: one ONNX file of a run's guard, or a sentence and the nearest guard that can be exported."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny import all_refused, called, detect, refused, write_digits

from lightning_gradood.guard import Guard

pytestmark = pytest.mark.slow


def test_a_guard_becomes_a_file_or_the_nearest_one_is_named(run, capsys):
    write_digits(Path("photos"), [0, 9], "all")
    Path("old.onnx").write_text("old")
    words = ["--detection.detectors", "[Energy, KNN, GradientKNN]", "--detection.guard"]
    for name in ("energy", "gradient_knn"):
        detect(run, name, *words, name)
    export = ["export", "guard.onnx", "--guard"]
    code, out, err = called([*export, "energy/guard", "--images", "photos"], capsys)
    assert code == 0, err
    assert "guard.onnx: " in out
    assert ", images uint8 [N, 3, 8, 8]. On 96 images onnxruntime flags the same;" in out
    guard, options = Guard.load("energy/guard"), onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session, paths = onnxruntime.InferenceSession("guard.onnx", options), sorted(Path("photos").iterdir())
    pixels = np.stack([guard.read(path).numpy() for path in paths])
    (scores,) = session.run(["score"], {"images": pixels})
    np.testing.assert_allclose(scores, [one.score for one in guard.score_files(paths)], atol=1e-4)

    said = refused([*export, "gradient_knn/guard", "--overwrite"], capsys)
    assert "Got `gradient_knn`, which reads gradients/" in said
    best = "knn" if "--detection.guard knn" in said else "energy"
    assert f"The nearest in its run is `{best}`, mean AUROC " in said
    rows = [
        ([*export, "energy/guard"], "`OUTPUT` should be a new file. Got `OUTPUT guard.onnx`, which exists."),
        ([*export, "energy/guard", "--overwrite", "--images", "nowhere"], "`nowhere` should be an image file."),
        ([*export, "energy/guard", "--overwrite", "--false_positive_rate", "0.001"], "should have at least 999 images"),
        ([*export, "nowhere", "--overwrite"], "`--guard` should be a folder with a guard.json"),
    ]
    all_refused(rows, capsys)
