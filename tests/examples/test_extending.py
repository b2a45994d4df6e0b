"""Each example of how to add something runs through the real command line, by its class path."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from lightning_gradood.cli import main

ROOT = Path(__file__).parents[2]
TINY = {
    "--data.limit": "40", "--data.attacks": "null", "--data.limits": "null", "--trainer.accelerator": "cpu",
    "--detection.resamples": "20", "--detection.false_positive_rate": "0.1", "--detection.mlp.max_epochs": "2",
    "--model.network": "lightning_gradood.networks.CifarResNet", "--model.network.blocks_per_stage": "1",
    "--trainer.callbacks": "[{class_path: ReportCallback, init_args: {figures: false}}]", "--run_dir": "run",
}  # fmt: skip


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with an array file, and the examples on the path, as a user's own modules are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "extending"))
    monkeypatch.setattr("sys.argv", ["lightning_gradood"])
    photographs = load_sample_images().images
    patches = [photo[32 * row : 32 * row + 32, :32] for photo in photographs for row in range(12)]
    np.savez("photos.npz", images=np.stack(patches), labels=np.repeat([0, 1], 12))
    yield tmp_path
    for name in ("label_design", "probe_and_detector", "attack_and_corruption", "source"):
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:NO WEIGHTS")  # what an untrained network finds is no matter
@pytest.mark.parametrize(
    ("flags", "column", "word"),
    [
        ({"--detection.label_designs": "[label_design.AnythingElse]"}, "detector", "mlp"),
        ({"--detection.detectors": "[probe_and_detector.UnusualGap]"}, "detector", "unusual_gap"),
        ({"--data.attacks": "{step: attack_and_corruption.EuclideanStep}"}, "source", "step"),
        ({"--data.corruptions": "{dead: {class_path: attack_and_corruption.DeadColumns}}"}, "source", "dead"),
        ({"--data.anomalies.photos": "{class_path: source.ArraySource, init_args: {path: photos.npz}}"}, "source", "photos"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_the_example_runs(flags, column, word):
    words = [part for pair in (TINY | flags).items() for part in pair]
    main(["detect", "--config", "digits", *words])
    outcomes = json.loads(Path("run/results.json").read_text())["outcomes"]
    found = [outcome for outcome in outcomes if outcome[column] == word]
    assert found
    assert all(0 <= outcome["metrics"]["test"]["auroc"] <= 1 for outcome in found)
    if column == "detector":  # a guard can be made of them, too
        assert (Path("run/guard") / "guard.json").is_file()
    if word == "unusual_gap":
        assert (Path("run/detectors") / found[0]["source"] / "unusual_gap.safetensors").is_file()
