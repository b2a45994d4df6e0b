"""A tiny experiment on bundled images, and ways to call the command line on it."""

import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml
from shared import shared

from lightning_gradood.cli import main
from lightning_gradood.data import DigitsSource
from lightning_gradood.report import Run
from lightning_gradood.report.tables import by_detector, mean_numbers

CONFIG = """
seed_everything: 0
trainer:
  max_epochs: 2
  log_every_n_steps: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  callbacks: [{class_path: ReportCallback, init_args: {figures: false}}]  # drawing takes longer than all the rest
model:
  class_path: ClassificationTask
  init_args:
    network:
      class_path: lightning_gradood.networks.CifarResNet
      init_args: {blocks_per_stage: 1, num_classes: 3}
data:
  class_path: ImageDataModule
  init_args:
    train: {class_path: DigitsSource, init_args: {digits: [0, 1, 2], part: train}}
    normal: {class_path: DigitsSource, init_args: {digits: [0, 1, 2], part: test}}
    anomalies:
      nine: {class_path: DigitsSource, init_args: {digits: [9]}}
      photographs: {class_path: PhotoPatches}
    transform: {class_path: torchvision.transforms.v2.Resize, init_args: {size: [8, 8]}}
    batch_size: 64
    limits: {images: 20}
detection:
  resamples: 20
  false_positive_rate: 0.2  # eight normal images in `val` keep no smaller one than 1 in 9
  mlp: {max_epochs: 3}
"""
WITH_FIGURES = ["--trainer.callbacks", "null"]
FILE = ["--config", "tiny.yaml"]
LONG = "a_source_with_a_rather_long_name"
IMAGES = 3 * 20  # of the three detection sources


def called(words, capsys):
    """Run a verb; its exit code, standard output and standard error."""
    capsys.readouterr()
    code = 0
    try:
        main(words)
    except SystemExit as leaving:
        code = leaving.code or 0
    return code, *capsys.readouterr()


def refused(words, capsys):
    """Run a verb that must be refused, and return the one line, the last, that says why."""
    code, _, error = called(words, capsys)
    assert code == 2, error
    assert "Traceback" not in error
    *_, line = error.splitlines()
    assert line.startswith("error: ")
    assert error.count("error: ") == 1
    return line.removeprefix("error: ")


def all_refused(rows, capsys):
    """Each row's command line must be refused with the row's words, and no file be changed, gone or new."""
    before = snapshot(Path("."))
    said = [(words, sentence, refused(words, capsys)) for words, sentence in rows]
    assert [f"{words}: {got}" for words, sentence, got in said if sentence not in got] == []
    assert snapshot(Path(".")) == before


def printed(words, capsys):
    code, out, error = called(words, capsys)
    assert code == 0, error
    return out


def resolved(words, capsys):
    return yaml.safe_load(printed([*words, "--print_config"], capsys))


def detecting(run):
    """The words of a `detect` with the classifier of a run."""
    return ["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt")]


def detect(run, folder, *flags):
    """Detect with the classifier of a run, in a folder of its own; returns the folder."""
    main([*detecting(run), "--run_dir", folder, *flags])
    return Path(folder)


def table(printed):
    (found,) = re.findall(r"^source .*?(?=\n\n)", printed, flags=re.MULTILINE | re.DOTALL)
    return found


def only_run(experiment="tiny"):
    (folder,) = Path("runs", experiment).iterdir()
    return folder


def results(folder):
    """The results of a run as plain values, without scores."""
    run = Run.read(Path(folder))
    outcomes = [{name: value for name, value in vars(one).items() if name != "scores"} for one in run.outcomes]
    about = {
        "provenance": run.provenance,
        "failures": [vars(one) for one in run.failures],
        "experiment": run.experiment,
    }
    return about | {"outcomes": outcomes, "mean": {k: mean_numbers(v) for k, v in by_detector(run.outcomes).items()}}


def numbers(folder):
    return [{**outcome, "seconds": None} for outcome in results(folder)["outcomes"]]


def snapshot(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_digits(folder, digits, part="test"):
    """Write scans of the tiny experiment as PNG files; returns their keys with their paths."""
    listing = DigitsSource(digits, part).open()
    folder.mkdir(parents=True)
    found = {key: folder / f"{key}.png" for key in listing.keys}
    for row, path in enumerate(found.values()):
        listing.read(row).save(path)
    return found


def prepared(factory, name, words, start=None, **files):
    """A workplace in which a verb has run, made once for all workers, and what it printed in `printed.txt` there."""

    def make(folder):
        if start:
            copy_run(start, folder)
        for file, text in {"tiny": CONFIG, **files}.items():
            (folder / f"{file}.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch, open(folder / "printed.txt", "w") as out, redirect_stdout(out):
            patch.chdir(folder)
            patch.setattr("sys.argv", ["lightning_gradood", *words])
            main(words)

    return shared(factory, name, make)


def copy_run(source, target):
    """Copy a workplace with its run and records; return the run's folder in the copy."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    (folder,) = (target / "runs" / "tiny").iterdir()
    return folder
