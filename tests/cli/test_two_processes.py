"""Two processes through the command line: one run folder, each image once, the table of one process."""

import os
import subprocess
import sys
from pathlib import Path

from tiny import FILE, IMAGES, numbers

from lightning_gradood.records import RecordCache

TWO = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def program(*arguments):
    """Run the program in processes of its own; return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-m", "lightning_gradood", *arguments],
        capture_output=True, text=True, timeout=240, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_fit_on_two_processes_leaves_one_run_that_one_process_repeats():
    printed = program("fit", *FILE, *TWO)
    (run,) = Path("runs/tiny").iterdir()
    assert printed.count("acc(oracle)") == 1
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "splits.json", "results.json", "results.csv"}
    keys = [path.parent.name for path in Path("runs/.records").glob("*/entry.json")]
    ids = [name for key in keys for name in RecordCache("runs/.records").read(key).ids]
    assert len(keys) == 3 * 2  # gradients and logits of three sources
    assert len(ids) == 2 * IMAGES
    assert len(set(ids)) == IMAGES

    best = str(run / "checkpoints/best.ckpt")
    program("detect", *FILE, "--ckpt_path", best, "--run_dir", "cached")
    assert numbers(Path("cached")) == numbers(run)
    program("detect", *FILE, "--ckpt_path", best, "--run_dir", "anew", "--cache_dir", "anew_records")
    for ours, theirs in zip(numbers(Path("anew")), numbers(run), strict=True):
        assert ours["metrics"]["test"]["auroc"] == theirs["metrics"]["test"]["auroc"]
