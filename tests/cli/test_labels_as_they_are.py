"""Labels as users have them: one logit, folders in any order, fewer folders than outputs; right, or a line that says so."""

import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from bad_inputs import write_images
from PIL import Image
from tiny import called, refused, results

from lightning_gradood.guard import Guard

EVERY = ["Energy", "Baseline", "KNN", "LID", "GradNorm", "GradientKNN", "GradientGaussian", "Mahalanobis", "MahalanobisPP",
         "ODIN", "Consistency", "SyntheticOutliers", "ImageStatistics"]  # fmt: skip


def test_a_network_with_one_logit_is_trained_attacked_probed_and_guarded(capsys):
    text = tiny.CONFIG.replace("num_classes: 3", "num_classes: 1").replace("[0, 1, 2]", "[0, 1]")
    attacked = "images: 60}\n    perturbations: {attacks: {fgsm: {class_path: FGSM}}}"
    Path("one.yaml").write_text(text.replace("images: 20}", attacked))
    words = ["fit", "--config", "one.yaml", "--run_dir", "one", "--detection.detectors", f"[{', '.join(EVERY)}]",
             "--detection.label_designs", "[AllOnes, AllZeros, Uniform, SecondBest, Predicted]",
             "--trainer.max_epochs", "6", "--model.normalize", "{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"]  # fmt: skip
    _, out, err = called(words, capsys)
    assert (out + err).count("The network has one output, z: it is taken for a binary classifier") == 1
    found = results("one")
    assert found["failures"] == []
    assert found["provenance"]["classifier"]["accuracy"] > 0.9
    assert len({one["detector"] for one in found["outcomes"]}) == len(EVERY) + 2  # `mlp` and `mlp_all_ones`
    guard = Guard.load("one/guard")
    assert guard.about.one_logit
    assert 0.5 <= guard(torch.rand(4, 3, 8, 8)).probabilities.min() < 1


class ByBrightness(torch.nn.Module):
    """Eleven classes by mean brightness, always right."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        centres = torch.arange(11, device=images.device) / 10
        return -self.scale * 100 * (images.mean((1, 2, 3))[:, None] - centres).square()


@pytest.fixture
def bright():
    """The words of a `detect` on folders `0` to `10` of images that bright, with the network that knows them."""
    for number in range(11):
        Path(f"bright/{number}").mkdir(parents=True)
        for copy in range(6):
            pixels = np.full((8, 8, 3), round(25.5 * number), dtype=np.uint8)
            pixels[copy, copy, copy % 3] = 128  # no two are equal
            Image.fromarray(pixels).save(f"bright/{number}/{copy}.png")
    write_images(Path("noise"), 20)
    torch.save(ByBrightness().state_dict(), "bright.pt")
    text = tiny.CONFIG.replace("lightning_gradood.networks.CifarResNet", f"{__name__}.ByBrightness")
    text = text.replace("\n      init_args: {blocks_per_stage: 1, num_classes: 3}", "")
    Path("bright.yaml").write_text(text.replace("images: 20", "images: 100"))
    return ["detect", "--config", "bright.yaml", "--data.train", "null", "--data.normal", "bright", "--data.anomalies",
            "{noise: noise}", "--model.weights", "bright.pt", "--detection.detectors", "[Baseline]"]  # fmt: skip


def test_order_and_number_of_class_folders_are_right_or_said(bright, capsys):
    _, out, err = called([*bright, "--run_dir", "perfect"], capsys)
    assert "The classifier is 100.00 % accurate on 66 normal images." in out
    assert "are in the order of their numbers, 0, 1, 2, …, 10; torchvision's ImageFolder has 0, 1, 10" in out + err
    assert "Warning" not in out
    _, out, _ = called([*bright, "--run_dir", "shifted", "--data.classes", str([*range(1, 11), 0])], capsys)
    warning = r"Warning: 0\.0 % of the normal images are classified correctly, less than 27\.3 %.*the order of the classes is "
    assert re.search(rf"The classifier is 0\.00 % accurate on 66 normal images\.\n{warning}.*\n\n(.*\n)?source", out)
    assert re.search(warning, Path("shifted/report.html").read_text())
    words = "`data.classes` should name all 11 outputs of the network, in their order. Got 12 names."
    assert words in refused([*bright, "--data.classes", str([*range(12)])], capsys)
    for number in range(8):
        Path(f"bright/{number}").rename(f"hidden_{number}")
    _, out, err = called([*bright, "--run_dir", "few"], capsys)
    assert (
        "The network has 11 outputs and `normal` 3 classes (8, 9, 10): which outputs these are is not known"
        in out + err
    )
    Path("names.txt").write_text("\n".join(map(str, range(11))))
    _, out, _ = called([*bright, "--run_dir", "named", "--data.classes", "names.txt"], capsys)
    assert "The classifier is 100.00 % accurate on 18 normal images." in out
