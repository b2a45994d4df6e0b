"""`--report.formats` and `--report.titles`: how the figures of a run are written."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import run_program
from tiny import FILE, WITH_FIGURES, refused

from lightning_gradood.cli import main
from lightning_gradood.report import ReportCallback


def detect(run, *flags):
    """Detect again in the folder of the run; the names of its figures."""
    main(["detect", *FILE, "--run_dir", str(run), *flags])
    return {path.name for path in (run / "figures").iterdir()}


def test_figures_are_written_in_the_formats_that_are_named(run):
    names = detect(run, *WITH_FIGURES, "--report.formats", "[pdf, svg]", "--report.titles", "false")
    assert {"roc_mlp.pdf", "roc_mlp.svg", "scores_mlp.pdf", "layer_norms.svg"} <= names
    assert {name.rpartition(".")[2] for name in names} == {"pdf", "svg"}
    with_titles = detect(run, *WITH_FIGURES, "--report.formats", "[svg]")
    assert "roc_mlp.svg" in with_titles


def test_titles_take_room_that_papers_save(run):
    detect(run, *WITH_FIGURES)
    before = Image.open(run / "figures/roc_mlp.png").convert("L").crop((0, 0, 800, 30)).getextrema()
    detect(run, *WITH_FIGURES, "--report.titles", "false")
    after = Image.open(run / "figures/roc_mlp.png").convert("L")
    assert before[0] < 100  # black letters
    assert after.crop((0, 0, after.width, 5)).getextrema() == (255, 255)


def test_a_run_draws_the_paper_s_figures_of_what_it_has(run):
    attacks = "{fgsm: {class_path: FGSM, init_args: {eps: 0.1}}}"
    flags = [
        "--data.attacks",
        attacks,
        "--detection.detectors",
        "[{class_path: LID, init_args: {neighbours: [2]}}]",
        "--data.keep_pixels",
        "uint8",
    ]
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    main(["detect", *FILE, "--run_dir", "paper", *WITH_FIGURES, *checkpoint, *flags])
    names = {path.stem for path in Path("paper/figures").iterdir()}
    assert {"first_layer", "layer_norms", "activation_norms", "samples", "attacked_samples"} <= names


def test_attacked_samples_are_pairs_of_one_image_with_its_predictions(run, monkeypatch):
    found = []
    monkeypatch.setattr(ReportCallback, "on_detect_end", lambda self, trainer, report: found.append(report))
    attacks = "{fgsm: {class_path: FGSM, init_args: {eps: 0.1}}}"
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    main(["detect", *FILE, "--run_dir", "x", *checkpoint, "--data.attacks", attacks, "--data.keep_pixels", "uint8"])
    ((name, pairs),) = found[0].pairs.items()
    assert name == "fgsm"
    change = np.abs(pairs.attacked.astype(int) - pairs.clean).max(axis=(1, 2, 3))
    assert (change > 0).all()
    assert (change <= 0.1 * 255 + 1).all()  # FGSM's bound: another image would be far away
    known = {(facts.prediction) for facts in found[0].facts.values()}
    assert {word for pair in pairs.predictions for word in pair} <= known


def test_a_callback_of_the_user_s_own_wins(run):
    own = "[{class_path: ReportCallback, init_args: {figures: true, settings: {formats: [svg]}}}]"
    names = detect(run, "--trainer.callbacks", own, "--report.formats", "[pdf]")
    assert {name.rpartition(".")[2] for name in names} == {"svg"}


def test_wandb_gets_png_whatever_is_written(run, tmp_path):
    flags = ["--trainer.logger", "WandbLogger", "--report.formats", "[pdf]", *WITH_FIGURES]
    command = [sys.executable, "-m", "lightning_gradood", "detect", *FILE, "--run_dir", str(run), *flags]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    done = run_program(command, environment=environment)
    assert done.returncode == 0, done.stderr
    assert (run / "figures/roc_mlp.pdf").is_file()
    sent = [path.name for path in run.glob("wandb/offline-run-*/files/media/images/**/*") if path.is_file()]
    assert any(name.startswith("roc_mlp") for name in sent)
    assert all(name.endswith(".png") for name in sent)


@pytest.mark.parametrize("formats", ["gif", "[png, gif]", "[]", "[png, png]", "null"])
def test_other_formats_are_refused_before_anything_is_done(formats, workplace, capsys):
    line = refused(["fit", *FILE, "--report.formats", formats], capsys)
    assert line.startswith("`report.formats`")
    assert not [path for path in workplace.rglob("runs/**/*") if path.is_file()]


def test_a_misspelt_flag_gets_the_nearest(capsys):
    assert refused(["fit", *FILE, "--report.format", "[pdf]"], capsys).endswith("Did you mean `formats`?")
