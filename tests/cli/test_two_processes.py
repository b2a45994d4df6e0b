"""The command line on two gloo processes: one folder, one table, every image once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tiny import FILE, IMAGES, numbers, only_run, results, table

from lightning_gradood.networks import CifarResNet

TWO = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def launched(arguments, code=0):
    """Run the program as a user does; Lightning starts the second process from the first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "lightning_gradood", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert ended.returncode == code, ended.stderr
    for words in ("Traceback", "Warning", "It is recommended"):
        assert words not in ended.stderr, ended.stderr
    return ended


def test_fit_leaves_one_folder_one_table_and_each_image_once():
    ended = launched(["fit", *FILE, *TWO, "--trainer.max_epochs", "1"])
    assert "Starting with 2 processes" in ended.stderr
    folder = only_run()
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "splits.json", "results.json", "results.csv", "checkpoints", "detectors", "logs"),
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(list((folder / "logs").iterdir())) == 1
    assert ended.stdout.count("Results and figures: ") == 1
    assert [line.split()[0] for line in table(ended.stdout).splitlines()[2:4]] == ["nine", "photographs"]
    assert {path.parent.name for path in (folder / "detectors").rglob("*.safetensors")} == {"nine", "photographs"}
    entries = {path.parent.name for path in Path("runs/.records").glob("*/entry.json")}
    assert entries == set(results(folder)["provenance"]["records"].values())
    shards = {entry: list(Path("runs/.records", entry).glob("*.parquet")) for entry in entries}
    assert {len(files) for files in shards.values()} == {2}, "each process writes the records it computed"
    ids = {entry: Counter(name for file in files for name in _ids(file)) for entry, files in shards.items()}
    assert all(set(counts.values()) == {1} for counts in ids.values())
    assert sum(map(len, ids.values())) == 2 * IMAGES  # gradients and logits


def test_detect_gives_the_numbers_of_one_process(run):
    before = numbers(run)
    modified = {path: path.stat().st_mtime_ns for path in Path("runs/.records").rglob("*")}
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    ended = launched(["detect", *FILE, *TWO, *checkpoint, "--run_dir", "two"])
    assert numbers(Path("two")) == before
    assert {path: path.stat().st_mtime_ns for path in Path("runs/.records").rglob("*")} == modified
    assert ended.stdout.count("Results and figures: ") == 1
    again = launched(["detect", *FILE, *TWO, *checkpoint, "--run_dir", "probed", "--cache_dir", "new"])
    assert numbers(Path("probed")) == before
    assert table(again.stdout) == table(ended.stdout)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.anomalies.nine", "nowhere", "--ckpt_path", "broken.pt"], "Got `root = nowhere`"),
        (["--ckpt_path", "broken.pt"], "logits should be finite"),
    ],
    ids=["before the second process is there", "while both are probing"],
)
def test_a_refusal_ends_both_processes_with_the_sentence(flags, words):
    network = CifarResNet(blocks_per_stage=1, num_classes=3)
    network.linear.bias.data[0] = torch.nan
    torch.save(network.state_dict(), "broken.pt")
    ended = launched(["detect", *FILE, *TWO, *flags], code=2)
    assert words in ended.stderr
    assert ended.stdout == ""


def _ids(shard):
    return pq.read_table(shard, columns=["id"], partitioning=None)["id"].to_pylist()
