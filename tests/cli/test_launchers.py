"""Whoever starts the processes, and however many: the same weights, records, table and guard; preempted runs go on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from test_resuming import DYING, NETWORK, assert_equal_runs
from tiny import FILE, called, table

from lightning_gradood.guard import Guard
from lightning_gradood.networks import CifarResNet

pytestmark = pytest.mark.slow
PROGRAM = ["-m", "lightning_gradood"]
SRUN = [sys.executable, str(Path(__file__).with_name("srun.py"))]
DDP = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]


def ended(command, code=0, **environment):
    """Run to the end, and return what was written."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    process = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200, check=False)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    return process


def torchrun(processes):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def test_a_preempted_job_of_slurm_goes_on_under_torchrun_and_ends_as_one_on_two_nodes(workplace, module):
    module("dying", DYING)
    queue = workplace / "bin/scontrol"
    queue.parent.mkdir()
    queue.write_text('#!/bin/sh\necho "$@" >> requeued\n')
    queue.chmod(0o755)
    fit = ["fit", *FILE, "--model.network", str(NETWORK), "--detection", "null", "--trainer.max_epochs", "3", *DDP,
           "--data.batch_size", "20", "--trainer.limit_train_batches", "4", "--trainer.log_every_n_steps", "1"]  # fmt: skip
    nodes = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "OMP_NUM_THREADS": "1"}
    two_nodes = ["--trainer.devices", "1", "--trainer.num_nodes", "2", "--run_dir", "alone"]
    on_nodes = [sys.executable, *PROGRAM, *fit, *two_nodes]
    second = subprocess.Popen(on_nodes, env=os.environ | nodes | {"NODE_RANK": "1"})
    ended(on_nodes, **nodes, NODE_RANK="0")
    assert second.wait(60) == 0
    here = [*PROGRAM, *fit, "--trainer.devices", "2", "--run_dir", "preempted"]
    path = f"{queue.parent}:{os.environ['PATH']}"
    stopped = ended([*SRUN, "2", sys.executable, *here], code=143, PREEMPTED_IN_STEP="6", PATH=path)
    assert "exit codes [143, 143]" in stopped.stderr
    assert stopped.stderr.count("error: stopped by SIGUSR1. Epochs that ended and records that were read are kept") == 1
    assert re.fullmatch(r"requeue \d+\n", Path("requeued").read_text())
    going_on = ended([*torchrun(2), *here])
    assert "Training goes on after 1 of 3 epochs." in going_on.stderr
    assert_equal_runs("preempted", "alone")


@pytest.fixture
def detect(workplace):
    """The words of a `detect` with an attack, on numbers of images that two and three do not divide."""
    torch.manual_seed(0)
    torch.save(CifarResNet(blocks_per_stage=1, num_classes=3).state_dict(), "some.pt")
    return ["detect", *FILE, "--data.train", "null", "--model.weights", "some.pt", "--data.limits.images", "13",
            "--data.perturbations.attacks", "{pgd: {class_path: PGD, init_args: {eps: 0.1, steps: 2}}}",
            "--detection.false_positive_rate", "0.5"]  # fmt: skip


def records(cache):
    """Every cache entry: ids to all other columns."""
    found = {}
    for entry in Path(cache).iterdir():
        rows = [row for shard in entry.glob("*.parquet") for row in pq.read_table(shard).to_pylist()]
        assert len({row["id"] for row in rows}) == len(rows), "an image has two records"
        found[entry.name] = {row.pop("id"): row for row in rows}
    return found


def near(value):
    """Equal up to rounding, of which there is most in the small numbers of a list."""
    largest = max(map(abs, value)) if isinstance(value, list) else value
    return pytest.approx(value, rel=1e-5, abs=1e-6 * largest) if isinstance(value, float | list) else value


def scores(folder):
    return Guard.load(f"{folder}/guard")(torch.rand(3, 3, 8, 8, generator=torch.manual_seed(0))).scores


def test_one_two_and_three_processes_give_the_same_records_table_and_guard(detect, capsys):
    printed = table(called([*detect, "--run_dir", "one", "--cache_dir", "records1"], capsys)[1])
    alone = {
        entry: {row: {name: near(value) for name, value in columns.items()} for row, columns in rows.items()}
        for entry, rows in records("records1").items()
    }
    for launcher, processes in ((torchrun(3), 3), ([*SRUN, "2", sys.executable], 2)):
        folder, cache = f"of{processes}", f"records{processes}"
        words = [*detect, *DDP, "--trainer.devices", str(processes), "--run_dir", folder, "--cache_dir", cache]
        assert table(ended([*launcher, *PROGRAM, *words]).stdout) == printed
        assert records(cache) == alone
        assert Path(folder, "splits.json").read_bytes() == Path("one/splits.json").read_bytes()
        assert scores(folder) == pytest.approx(scores("one"), rel=1e-5)
