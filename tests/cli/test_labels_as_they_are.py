"""Labels as users have them: one logit, folders in any order, fewer folders than outputs; right, or a line that says so."""

import re
from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that it first meets
import numpy as np
import pytest
import tiny
import torch
from bad_inputs import write_images
from PIL import Image
from tiny import FILE, refused, results

from lightning_gradood.cli import main
from lightning_gradood.guard import Guard
from lightning_gradood.records import read_columns

EVERY = (
    "[Energy, Baseline, KNN, LID, GradNorm, GradientKNN, GradientGaussian, GradientForest, Mahalanobis, MahalanobisPP, \
ODIN, Consistency, SyntheticOutliers, ImageStatistics]"
)


def test_a_network_with_one_logit_is_trained_attacked_probed_and_guarded(capsys):
    text = tiny.CONFIG.replace("num_classes: 3", "num_classes: 1").replace("[0, 1, 2]", "[0, 1]")
    Path("one.yaml").write_text(text.replace("limit: 20", "limit: 60\n    attacks: {fgsm: {class_path: FGSM}}"))
    designs = "[AllOnes, AllZeros, Uniform, SecondBest, Predicted]"
    normalize = ["--model.normalize", "{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"]
    main(["fit", "--config", "one.yaml", "--run_dir", "runs/one", "--detection.detectors", EVERY,
          "--detection.label_designs", designs, "--trainer.max_epochs", "6", *normalize])  # fmt: skip
    said = capsys.readouterr()
    assert (said.out + said.err).count("The network has one output, z: it is taken for a binary classifier") == 1
    found = results(Path("runs/one"))
    assert found["failures"] == []
    assert found["provenance"]["classifier"]["accuracy"] > 0.9
    assert len({one["detector"] for one in found["outcomes"]}) == 16
    guard = Guard.load("runs/one/guard")
    assert guard.about.one_logit
    scores = read_columns(Path("runs/one/scores.parquet"))
    assert {"0", "1"} == {
        scores["prediction"][row] for row, name in enumerate(scores["id"]) if name.startswith("normal/")
    }
    verdict = guard(torch.rand(4, 3, 8, 8))
    assert verdict.probabilities.min() >= 0.5
    assert verdict.probabilities.max() < 1


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
    """Folders `0` to `10` of images that bright, and the network that knows them."""
    for number in range(11):
        Path(f"bright/{number}").mkdir(parents=True)
        for copy in range(6):
            pixels = np.full((8, 8, 3), round(25.5 * number), dtype=np.uint8)
            pixels[copy, copy, copy % 3] = 128  # no two are equal
            Image.fromarray(pixels).save(f"bright/{number}/{copy}.png")
    write_images(Path("noise"), 20)
    torch.save(ByBrightness().state_dict(), "bright.pt")
    text = tiny.CONFIG.replace(
        "class_path: lightning_gradood.networks.CifarResNet", f"class_path: {__name__}.ByBrightness"
    )
    text = text.replace("\n      init_args: {blocks_per_stage: 1, num_classes: 3}", "").replace(
        "limit: 20", "limit: 100"
    )
    Path("bright.yaml").write_text(text)


def detect(*more):
    main(["detect", "--config", "bright.yaml", "--data.train", "null", "--data.normal", "bright", "--data.anomalies",
          "{noise: noise}", "--model.weights", "bright.pt", "--run_dir", "runs/bright", "--detection.detectors", "[Baseline]",
          *more])  # fmt: skip


def test_a_perfect_network_is_perfect_on_numbered_folders(bright, capsys):
    detect()
    said = capsys.readouterr()
    assert "The classifier is 100.00 % accurate on 66 normal images." in said.out
    assert (
        "are in the order of their numbers, 0, 1, 2, …, 10; torchvision's ImageFolder has 0, 1, 10"
        in said.out + said.err
    )
    assert "Warning" not in said.out


def test_a_wrong_order_of_classes_is_the_first_suspect_in_console_and_page(bright, capsys):
    detect("--data.classes", str([*range(1, 11), 0]))
    text = capsys.readouterr().out
    warning = r"Warning: 0\.0 % of the normal images are classified correctly, less than 27\.3 %.*the order of the classes is "
    assert re.search(rf"The classifier is 0\.00 % accurate on 66 normal images\.\n{warning}.*\n\n(.*\n)?source", text)
    page = Path("runs/bright/report.html").read_text()
    assert re.search(warning, page)
    assert page.index("Warning: 0.0 %") < page.index("<table")


def test_folders_of_a_few_classes_are_mapped_or_left_out_but_never_mistaken(bright, capsys):
    for number in range(8):
        Path(f"bright/{number}").rename(f"hidden_{number}")
    detect()
    said = capsys.readouterr()
    assert (
        "The network has 11 outputs and `normal` 3 classes (8, 9, 10): which outputs these are is not known"
        in said.err + said.out
    )
    assert "The classifier is of unknown accuracy, as the normal images have no labels." in said.out
    Path("names.txt").write_text("\n".join(map(str, range(11))))
    detect("--data.classes", "names.txt", "--run_dir", "runs/named")
    assert "The classifier is 100.00 % accurate on 18 normal images." in capsys.readouterr().out
    assert Guard.load("runs/named/guard", [__name__]).classes == [str(number) for number in range(11)]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (
            "[cat, dog]",
            "`normal` should have the classes of `data.classes` (2: cat, dog). Got `normal` with class `0`.",
        ),
        (str([*range(12)]), "`data.classes` should name all 11 outputs of the network, in their order. Got 12 names."),
        (
            "nowhere.txt",
            "`data.classes` should be a list of names, or a file of them. Got `data.classes = nowhere.txt`",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(bright, capsys, classes, words):
    words_typed = [
        "detect",
        "--config",
        "bright.yaml",
        "--data.train",
        "null",
        "--data.normal",
        "bright",
        "--model.weights",
        "bright.pt",
    ]
    assert words in refused([*words_typed, "--data.classes", classes], capsys)


def test_fit_trains_a_network_with_more_outputs_than_folders_and_says_which(capsys):
    main(["fit", *FILE, "--model.network.num_classes", "5", "--detection", "null"])
    said = capsys.readouterr()
    assert (
        "The network has 5 outputs and `train` 3 classes, which are taken for its first 3 outputs."
        in said.out + said.err
    )


def test_a_run_is_not_continued_with_more_epochs_than_its_schedule_was_made_for(capsys):
    schedule = [
        "--model.scheduler",
        "lightning_gradood.tasks.OneCycle",
        "--detection",
        "null",
        "--run_dir",
        "runs/long",
    ]
    main(["fit", *FILE, *schedule])
    sentence = refused(["fit", *FILE, *schedule, "--trainer.max_epochs", "4"], capsys)
    assert (
        "`trainer.max_epochs`, `model.scheduler` and `model.optimizer` should be those of the run that is continued"
        in sentence
    )
    assert "total_steps " in sentence
    assert "in `ckpt_path = runs/long/checkpoints/last.ckpt` and " in sentence
