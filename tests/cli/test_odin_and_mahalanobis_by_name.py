"""ODIN and Mahalanobis are listed by name; what is learnt from the training images is learnt once, and refused without them."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny import FILE, refused, results, table

from lightning_gradood.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:NO WEIGHTS")  # an untrained network will do

DETECTORS = (
    "[{class_path: ODIN, init_args: {temperatures: [1, 1000], magnitudes: [0, 0.01]}}, Mahalanobis, "
    "{class_path: Mahalanobis, init_args: {preprocessing: true, ensemble: true}}]"
)
NAMES = ["mlp", "odin", "mahalanobis_v", "mahalanobis_p_fe"]


def test_odin_and_mahalanobis_by_name(capsys):
    main(["detect", *FILE, "--detection.detectors", DETECTORS, "--run_dir", "stepping"])
    shown = [line.split()[:2] for line in table(capsys.readouterr().out).splitlines()]
    assert [words[1] for words in shown if words[0] == "nine"] == NAMES
    found = {(outcome["source"], outcome["detector"]) for outcome in results(Path("stepping"))["outcomes"]}
    assert found == {(source, name) for source in ("nine", "photographs") for name in NAMES}
    assert len(list(Path("runs/.records").glob("*.safetensors"))) == 1  # both kinds of Mahalanobis share it
    saved = load_file("stepping/detectors/nine/mahalanobis_p_fe.safetensors")
    assert saved["weights"].shape == (4,)  # the stem and three stages
    assert load_file("stepping/detectors/nine/odin.safetensors").keys() == {"temperature", "magnitude", "column"}


def test_without_training_images_one_line_says_what_to_do(capsys):
    arguments = [
        "detect",
        *FILE,
        "--data.train",
        "null",
        "--detection.detectors",
        "[Mahalanobis]",
        "--run_dir",
        "no_train",
    ]
    line = refused(arguments, capsys)
    assert line.startswith("`data.train` should name the classifier's training images, as mahalanobis must be fitted")


def test_an_unknown_feature_layer_is_refused_below_the_bar(capsys):
    wrong = "[{class_path: Mahalanobis, init_args: {layers: [layer9]}}]"
    line = refused(["detect", *FILE, "--detection.detectors", wrong, "--run_dir", "no_layer"], capsys)
    assert "Got `layers = ['layer9']` with 'layer9'. Its children are" in line
