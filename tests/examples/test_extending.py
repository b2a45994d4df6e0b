"""The examples of how to add something run through the real command line, by their class paths."""

import sys
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from lightning_gradood import networks
from lightning_gradood.cli import main
from lightning_gradood.detectors import load_detector
from lightning_gradood.guard import Guard
from lightning_gradood.report import Run

ROOT = Path(__file__).parents[2]
FLAGS = {
    "--data.limits.images": "40", "--trainer.accelerator": "cpu", "--run_dir": "run",
    "--detection.resamples": "20", "--detection.false_positive_rate": "0.1", "--detection.mlp.max_epochs": "2",
    "--model.network": "lightning_gradood.networks.CifarResNet", "--model.network.blocks_per_stage": "1",
    "--model.weights": "untrained.safetensors",
    "--trainer.callbacks": "[{class_path: ReportCallback, init_args: {figures: false}}]",
    "--detection.preset": "paper",  # the MLP alone beside the examples: others need more than these few images
    # the examples
    "--detection.guard": "unusual_gap",
    "--detection.label_designs": "[label_design.AnythingElse]",
    "--detection.detectors": "[probe_and_detector.UnusualGap]",
    "--data.perturbations.attacks": "{step: attack_and_corruption.EuclideanStep}",
    "--data.perturbations.corruptions": "{dead: {class_path: attack_and_corruption.DeadColumns}}",
    "--data.anomalies.photos": "{class_path: source.ArraySource, init_args: {path: photos.npz}}",
}  # fmt: skip


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "extending"))  # as a user's own modules are
    monkeypatch.setattr("sys.argv", ["lightning_gradood"])
    photographs = load_sample_images().images
    patches = [photo[32 * row : 32 * row + 32, :32] for photo in photographs for row in range(12)]
    np.savez("photos.npz", images=np.stack(patches), labels=np.repeat([0, 1], 12))
    save_file(networks.CifarResNet(1, 9).state_dict(), "untrained.safetensors")  # what it finds is no matter
    try:
        main(["detect", "--config", "digits", *(word for pair in FLAGS.items() for word in pair)])
        guard = Guard.load("run/guard", trust=["probe_and_detector"])
        saved = load_detector("run/detectors/normal/unusual_gap.safetensors", trust=["probe_and_detector"])
    finally:
        for name in ("label_design", "probe_and_detector", "attack_and_corruption", "source"):
            sys.modules.pop(name, None)
    found = Run.read(Path("run"))
    assert found.failures == []
    assert {one.source for one in found.outcomes} >= {"step", "dead", "photos"}
    assert {one.detector for one in found.outcomes} == {"mlp", "unusual_gap"}
    assert all(0 <= one.metrics["test"]["auroc"] <= 1 for one in found.outcomes)
    assert "photos/gradients/anything_else" in found.provenance["records"]
    assert guard.fitted == saved.fitted
