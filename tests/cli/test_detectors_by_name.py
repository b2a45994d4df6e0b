"""The field's other methods are listed by their short names and stand in the table, on records of the same images."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny import FILE, results, table

from lightning_gradood.cli import main

OTHERS = (
    "[Baseline, Energy, GradNorm, {class_path: KNN, init_args: {k: 3}}, {class_path: LID, init_args: {neighbours: [3, 5]}}, "
    "ImageStatistics]"
)
NAMES = ["mlp", "baseline", "energy", "gradnorm", "knn", "lid", "image_statistics"]


@pytest.mark.filterwarnings("ignore:NO WEIGHTS")
def test_detectors_by_short_name(capsys):
    """An untrained network will do: which numbers come out does not matter here."""
    main(["detect", *FILE, "--detection.detectors", OTHERS, "--run_dir", "others"])
    found = results(Path("others"))["outcomes"]
    pairs = {(outcome["source"], outcome["detector"]) for outcome in found}
    assert pairs == {(source, name) for source in ("nine", "photographs") for name in NAMES}
    shown = [line.split()[:2] for line in table(capsys.readouterr().out).splitlines()]
    assert [words[1] for words in shown if words[0] == "nine"] == NAMES
    saved = load_file("others/detectors/nine/lid.safetensors")
    assert int(saved["k"]) in (3, 5)
    assert sorted(set(saved["layer"].tolist())) == [0, 1, 2, 3]  # the stem and three stages
    assert load_file("others/detectors/nine/knn.safetensors")["directions"].shape == (8, 64)
