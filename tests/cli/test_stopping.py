"""A signal in the middle of probing: every process of the run ends soon, and what was read is kept."""

import os
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from programs import Program
from tiny import FILE, IMAGES, results

from lightning_gradood.cli import main
from lightning_gradood.networks import CifarResNet

SLOW = """
import hashlib, os, time
from lightning_gradood.core import Refusal
from lightning_gradood.networks import CifarResNet

class Slow(CifarResNet):
    def forward(self, images):
        logits = super().forward(images)
        if "SECONDS" in os.environ and len(images) > 3:  # not where the engine makes its plan
            rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
            with open(f"batches{rank}", "a") as file:
                file.write(hashlib.md5(images.detach().numpy().tobytes()).hexdigest() + "\\n")
            with open(f"batches{rank}") as file:
                begun = len(set(file))
            if begun == 1:
                with open(f"pid{rank}", "w") as file:
                    file.write(str(os.getpid()))
            if rank == os.environ.get("REFUSES") and begun > 2:
                raise Refusal("images should be others")
            time.sleep(0.01 if rank == os.environ.get("FAST") else float(os.environ["SECONDS"]))
        return logits
"""
NETWORK = {"class_path": "slow.Slow", "init_args": {"blocks_per_stage": 1, "num_classes": 3}}
COMMAND = ["detect", *FILE, "--data.train", "null", "--model.network", str(NETWORK), "--model.weights", "some.pt",
           "--data.probe_batch_size", "5", "--run_dir", "out"]  # fmt: skip
PROGRAM = [sys.executable, "-m", "lightning_gradood", *COMMAND]
DDP = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
TWO = [*PROGRAM, *DDP]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *TWO[1:]]


@pytest.fixture(autouse=True)
def network(module):
    """A network that takes its time, and tells which batches it has begun."""
    module("slow", SLOW)
    torch.save(CifarResNet(blocks_per_stage=1, num_classes=3).state_dict(), "some.pt")


def begun(rank):
    """How many batches a process has begun."""
    path = Path(f"batches{rank}")
    return len(set(path.read_text().split())) if path.exists() else 0


def under_way(command, processes, **variables):
    """Start a program, and wait until each of its processes is in its third batch."""
    program = Program(command, environment=os.environ | {"OMP_NUM_THREADS": "1", "SECONDS": "0.7"} | variables)
    deadline = time.monotonic() + 120
    while min(map(begun, range(processes))) < 3:
        assert program.returncode is None, program.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return program


def lives(pid):
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def assert_kept(*batches):
    """Every batch that a process has read has its records, of gradients and of logits."""
    shards = Path("runs/.records").glob("*/*.parquet")
    assert sum(pq.read_metadata(shard).num_rows for shard in shards) >= 2 * 5 * sum(batches)


def test_a_run_that_was_stopped_keeps_what_it_has_read_and_the_next_reads_only_the_rest(probed):
    program = under_way(PROGRAM, 1)
    program.send_signal(signal.SIGTERM)
    error = program.communicate(timeout=60)[1]
    assert program.returncode == 143, error
    assert "Traceback" not in error
    assert "error: stopped by SIGTERM. What was read from the network is kept; the same command reads" in error
    assert begun(0) < IMAGES / 5, "it went on to the end"
    assert "ERROR stopped by SIGTERM" in Path("out/run.log").read_text()
    assert not Path("out/results.parquet").exists()
    assert_kept(begun(0) - 1)
    main(COMMAND)
    assert sum(probed) == IMAGES - 5 * (begun(0) - 1)
    assert results("out")["outcomes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number", "rank", "waits", "code"),
    [
        (TWO, signal.SIGTERM, 1, True, 143),
        (TWO, signal.SIGINT, 0, False, 130),
        (TWO, signal.SIGKILL, 0, False, -9),
        (TORCHRUN, signal.SIGTERM, 1, False, 1),  # torchrun's own code
        (TORCHRUN, signal.SIGINT, 0, True, 1),
    ],
    ids=["term_1_waits", "int_0", "kill_0", "torchrun_term_1", "torchrun_int_0_waits"],
)
def test_two_processes_end_together_and_keep_what_they_have_read(command, number, rank, waits, code):
    """Where one `waits`, it has read its part and is in a collective operation, in which Python handles no signal."""
    program = under_way(command, 2, **({"FAST": str(rank), "SECONDS": "2.5"} if waits else {}))
    time.sleep(1.0 if waits else 0.0)
    pids = [int(Path(f"pid{one}").read_text()) for one in (0, 1)]
    since = time.monotonic()
    os.kill(pids[rank], number)
    error = program.communicate(timeout=100)[1]
    while any(map(lives, pids)):
        time.sleep(0.1)
        assert time.monotonic() < since + 60
    assert program.returncode == code, error
    assert error.count("error: ") == (code > 0), "it is said once"
    if code > 1:
        assert f"error: stopped by {number.name}. What was read" in error
        assert "Traceback" not in error
    assert not Path("out/results.parquet").exists()
    if number == signal.SIGKILL:
        assert_kept(begun(1) - 1)
    else:
        assert_kept(*(begun(one) - (not waits or one != rank) for one in (0, 1)))


@pytest.mark.slow
def test_what_one_of_two_processes_refuses_ends_both_with_its_code():
    program = Program(TWO, environment=os.environ | {"SECONDS": "2.0", "FAST": "1", "REFUSES": "1"})
    error = program.communicate(timeout=100)[1]
    assert program.returncode == 2, error
    assert error.count("error: ") == 1
    assert "error: images should be others" in error
    assert "Traceback" not in error
    assert_kept(begun(0) - 1, 2)
