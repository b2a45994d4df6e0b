"""The command line on two gloo processes, and two runs at once: one table, every image once."""

import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from programs import run_program
from tiny import FILE, IMAGES, all_refused, numbers, table

from lightning_gradood.core import hold

PROGRAM = [sys.executable, "-m", "lightning_gradood"]
TWO = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def launched(words):
    """Run the program as a user does; Lightning starts the second process from the first. Returns what it says on stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = run_program([*PROGRAM, *words, *TWO], environment=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr
    for word in ("Traceback", "Warning", "It is recommended"):
        assert word not in ended.stderr, ended.stderr
    assert ended.stdout.count("Results and figures: ") == 1
    assert [line.split()[0] for line in table(ended.stdout).splitlines()[2:4]] == ["nine", "photographs"]
    return ended.stderr


def assert_equal_but_for_rounding(numbers, others):
    """Batches of other sizes, and MLPs trained beside others, are summed in another order: the last float32 digits differ."""
    for mine, theirs in zip(numbers, others, strict=True):
        assert mine["threshold"] == pytest.approx(theirs["threshold"], rel=1e-5)
        assert mine["curves"] == [pytest.approx(epoch, rel=1e-5) for epoch in theirs["curves"]]
        inexact = {"threshold": None, "curves": None}
        assert mine | inexact == theirs | inexact


def assert_each_image_has_one_record(cache):
    """Each process writes the records it computed."""
    shards = {entry: list(entry.parent.glob("*.parquet")) for entry in Path(cache).glob("*/entry.json")}
    assert {len(files) for files in shards.values()} == {2}
    ids = [
        [one for file in files for one in pq.ParquetFile(file).read(["id"])["id"].to_pylist()]
        for files in shards.values()
    ]
    assert [len(set(one)) for one in ids] == [len(one) for one in ids]
    assert sum(map(len, ids)) == 2 * IMAGES  # gradients and logits


def test_detect_reads_each_image_once_and_gives_the_numbers_of_one_process(run):
    before = numbers(run)
    launched(["detect", *FILE, "--run_dir", str(run), "--cache_dir", "new"])
    assert_equal_but_for_rounding(numbers(run), before)
    assert_each_image_has_one_record("new")


def test_of_two_runs_in_one_folder_the_second_is_refused_and_writes_nothing(run, capsys):
    words = f"`run_dir = {run}`, held by process {os.getpid()} on"
    with hold(run):
        all_refused([([verb, *FILE, "--run_dir", str(run)], words) for verb in ("detect", "fit")], capsys)
