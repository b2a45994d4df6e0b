"""The command line on two gloo processes: one folder, one table, every image once."""

import os
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from programs import run_program
from tiny import FILE, IMAGES, numbers, only_run, results, table

from lightning_gradood.cli import main
from lightning_gradood.networks import CifarResNet

TWO = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def launched(arguments, code=0):
    """Run the program as a user does; Lightning starts the second process from the first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "lightning_gradood", *arguments]
    ended = run_program(command, environment=environment, timeout=240)
    assert ended.returncode == code, ended.stderr
    for words in ("Traceback", "Warning", "It is recommended"):
        assert words not in ended.stderr, ended.stderr
    return ended


def test_fit_leaves_one_folder_one_table_and_each_image_once_and_one_process_gets_its_numbers(probed):
    ended = launched(["fit", *FILE, *TWO, "--trainer.max_epochs", "1"])
    assert "Starting with 2 processes" in ended.stderr
    folder = only_run()
    _holds_everything_once(folder)
    _says_everything_once(ended.stdout)
    _has_records_of_each_image_once(set(results(folder)["provenance"]["records"].values()))
    checkpoint = ["--ckpt_path", str(folder / "checkpoints/best.ckpt")]
    main(["detect", *FILE, *checkpoint, "--run_dir", "one"])
    assert not probed
    main(["detect", *FILE, *checkpoint, "--run_dir", "anew", "--cache_dir", "new"])
    assert sum(probed) == IMAGES
    assert numbers(folder) == numbers(Path("one"))
    for mine, theirs in zip(numbers(folder), numbers(Path("anew")), strict=True):
        # Batches of other sizes are summed in another order, which shows in the last float32 digits of logits and losses.
        assert mine["threshold"] == pytest.approx(theirs["threshold"], rel=1e-5)
        assert mine["curves"] == [pytest.approx(epoch, rel=1e-5) for epoch in theirs["curves"]]
        inexact = {"threshold": None, "curves": None}
        assert mine | inexact == theirs | inexact


def _holds_everything_once(folder):
    assert {path.name for path in folder.iterdir()} == {
        *(
            "config.yaml",
            "run.log",
            "splits.json",
            "report.html",
            "results.json",
            "results.csv",
            "results.parquet",
            "scores.parquet",
            "checkpoints",
            "detectors",
            "guard",
            "logs",
        ),
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(list((folder / "logs").iterdir())) == 1
    assert {path.parent.name for path in (folder / "detectors").rglob("*.safetensors")} == {"nine", "photographs"}


def _says_everything_once(printed):
    assert printed.count("Results and figures: ") == 1
    assert [line.split()[0] for line in table(printed).splitlines()[2:4]] == ["nine", "photographs"]


def _has_records_of_each_image_once(entries):
    assert entries == {path.parent.name for path in Path("runs/.records").glob("*/entry.json")}
    shards = {entry: list(Path("runs/.records", entry).glob("*.parquet")) for entry in entries}
    assert {len(files) for files in shards.values()} == {2}, "each process writes the records it computed"
    ids = {entry: Counter(name for file in files for name in _ids(file)) for entry, files in shards.items()}
    assert all(set(counts.values()) == {1} for counts in ids.values())
    assert sum(map(len, ids.values())) == 2 * IMAGES  # gradients and logits


def test_detect_reads_the_records_of_one_process_and_gives_its_numbers(run):
    before = numbers(run)
    modified = {path: path.stat().st_mtime_ns for path in Path("runs/.records").rglob("*")}
    ended = launched(["detect", *FILE, *TWO, "--run_dir", str(run)])
    assert numbers(run) == before
    assert {path: path.stat().st_mtime_ns for path in Path("runs/.records").rglob("*")} == modified
    _says_everything_once(ended.stdout)


def test_a_refusal_while_both_are_probing_ends_both_with_the_sentence():
    network = CifarResNet(blocks_per_stage=1, num_classes=3)
    network.linear.bias.data[0] = torch.nan
    torch.save(network.state_dict(), "broken.pt")
    ended = launched(["detect", *FILE, *TWO, "--ckpt_path", "broken.pt"], code=2)
    assert "logits should be finite" in ended.stderr
    assert ended.stdout == ""


def _ids(shard):
    return pq.read_table(shard, columns=["id"], partitioning=None)["id"].to_pylist()
