"""A tiny experiment on bundled images, and ways to call the command line on it."""

import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from shared import shared

from lightning_gradood.cli import main

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
    limit: 20
detection:
  resamples: 20
  false_positive_rate: 0.2  # eight normal images in `val` keep no smaller one than 1 in 9
  mlp: {max_epochs: 3}
"""
WITH_FIGURES = ["--trainer.callbacks", "null"]
FILE = ["--config", "tiny.yaml"]
LONG = "a_source_with_a_rather_long_name"
IMAGES = 3 * 20  # of the three detection sources


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a verb that must be refused, and return the one line that says why."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    error = capsys.readouterr().err
    assert exit_.value.code == 2, error
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert error.rstrip().endswith(line), "the sentence should be the last thing a reader sees"
    return line.removeprefix("error: ")


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a call prints that ends by itself, such as --help."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    return output.out


def resolved(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The configuration that a call would run with."""
    return yaml.safe_load(printed([*arguments, "--print_config"], capsys))


def detect(run: Path, folder: str, *flags: str) -> Path:
    """Detect with the classifier of a run, in a folder of its own; returns the folder."""
    main(["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--run_dir", folder, *flags])
    return Path(folder)


def table(printed: str) -> str:
    """The table in what was printed."""
    (found,) = re.findall(r"^source .*?(?=\n\n)", printed, flags=re.MULTILINE | re.DOTALL)
    return found


def only_run(experiment: str = "tiny") -> Path:
    """The only run of an experiment, below the working directory."""
    (folder,) = Path("runs", experiment).iterdir()
    return folder


def results(folder: Path) -> dict[str, Any]:
    """The results of a run."""
    return json.loads((folder / "results.json").read_text())


def numbers(folder: Path) -> list[Any]:
    """The numbers of a run that another with the same seeds must repeat."""
    return [{**outcome, "seconds": None} for outcome in results(folder)["outcomes"]]


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def prepared(
    factory: pytest.TempPathFactory, name: str, words: list[str], start: Path | None = None, **files: str
) -> Path:
    """A workplace in which a verb has run, made once for all workers, and what it printed in `printed.txt` there."""

    def make(folder: Path) -> None:
        if start:
            copy_run(start, folder)
        for file, text in {"tiny": CONFIG, **files}.items():
            (folder / f"{file}.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch, open(folder / "printed.txt", "w") as out, redirect_stdout(out):
            patch.chdir(folder)
            patch.setattr("sys.argv", ["lightning_gradood", *words])
            main(words)

    return shared(factory, name, make)


def copy_run(source: Path, target: Path) -> Path:
    """Copy a workplace with its run and records; return the run's folder in the copy."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    (folder,) = (target / "runs" / "tiny").iterdir()
    return folder
