"""A plain `kill` in the middle of probing: the process ends, and the next reads only the rest."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from programs import Program
from tiny import FILE, IMAGES, results

from lightning_gradood.cli import main
from lightning_gradood.cli.processes import _how
from lightning_gradood.cli.program import _requeue
from lightning_gradood.cli.stopping import Stopped
from lightning_gradood.networks import CifarResNet

SLOW = """
import os, time
from lightning_gradood.networks import CifarResNet

class Slow(CifarResNet):
    def forward(self, images):
        if "SECONDS" in os.environ and len(images) > 3:  # not where the engine makes its plan
            rank = os.environ.get("LOCAL_RANK", "0")
            with open("passes" + rank.replace("0", ""), "a") as file:
                file.write("x")
            with open("pid" + rank, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(0.01 if rank == os.environ.get("FAST") else float(os.environ["SECONDS"]))
        return super().forward(images)
"""
NETWORK = {"class_path": "slow.Slow", "init_args": {"blocks_per_stage": 1, "num_classes": 3}}
COMMAND = ["detect", *FILE, "--data.train", "null", "--model.network", str(NETWORK), "--model.weights", "some.pt"]
COMMAND += ["--data.probe_batch_size", "4"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_ends_soon_and_keeps_what_it_has_read(number, code, workplace, monkeypatch, probed):
    Path("slow.py").write_text(SLOW)
    torch.save(CifarResNet(blocks_per_stage=1, num_classes=3).state_dict(), "some.pt")
    monkeypatch.syspath_prepend(workplace)
    command = [sys.executable, "-m", "lightning_gradood", *COMMAND]
    process = Program(command, environment=os.environ | {"OMP_NUM_THREADS": "1", "SECONDS": "1.0"})
    deadline = time.monotonic() + 120
    while not Path("passes").exists() or Path("passes").stat().st_size < 4:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code, error
    assert "Traceback" not in error
    if number == signal.SIGTERM:
        assert error.rstrip().endswith("reads only the rest.")
    assert Path("passes").stat().st_size < IMAGES / 4, "it went on to the end"
    assert not list(Path("runs").glob("*/*/results.json"))
    main(COMMAND)
    assert 0 < sum(probed) < IMAGES
    sources = {
        outcome["source"] for outcome in results(next(Path("runs/tiny").glob("*/results.json")).parent)["outcomes"]
    }
    assert sources == {"nine", "photographs"}


TWO = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


@pytest.mark.parametrize(
    ("number", "rank", "fast", "code", "why"),
    [
        (signal.SIGTERM, 1, None, 143, "stopped by SIGTERM, which process 1 got."),
        (signal.SIGINT, 0, "0", 130, "stopped by SIGINT."),  # while the first waits for the other in a barrier
        (signal.SIGKILL, 1, None, 1, "left alone: process 1 was killed by SIGKILL."),
        (signal.SIGKILL, 0, None, -9, ""),
    ],
    ids=["term_to_other", "interrupt_in_barrier", "kill_other", "kill_first"],
)
def test_two_processes_end_together_and_keep_what_they_have_read(
    number, rank, fast, code, why, workplace, monkeypatch, probed
):
    Path("slow.py").write_text(SLOW)
    torch.save(CifarResNet(blocks_per_stage=1, num_classes=3).state_dict(), "some.pt")
    monkeypatch.syspath_prepend(workplace)
    variables = os.environ | {"OMP_NUM_THREADS": "1", "SECONDS": "0.7"} | ({"FAST": fast} if fast else {})
    process = Program([sys.executable, "-m", "lightning_gradood", *COMMAND, *TWO], environment=variables)
    deadline = time.monotonic() + 120
    files = [Path("passes"), Path("passes1")]
    while not all(file.exists() and file.stat().st_size >= 3 for file in files):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0 if fast else 0.0)
    pids = [int(Path(f"pid{one}").read_text()) for one in (0, 1)]
    begun = time.monotonic()
    os.kill(pids[rank], number)
    error = process.communicate(timeout=60)[1]
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < begun + 30
        time.sleep(0.1)
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert error.count("error: ") == (code > 0), "it is said once"
    assert why in error
    assert not list(Path("runs").glob("*/*/results.json"))
    main(COMMAND)
    assert 0 < sum(probed) < IMAGES, "what the survivors had read is read again"


def _lives(pid):
    """Whether a process runs, which is no child of this one."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_first_process_that_hears_of_preemption_before_its_own_signal_requeues_the_job_too(workplace, monkeypatch):
    queue = Path("bin/scontrol")
    queue.parent.mkdir()
    queue.write_text('#!/bin/sh\necho "$@" >> requeued\n')
    queue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{queue.parent.absolute()}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    said = Stopped("stopped by SIGUSR1", 128 + signal.SIGUSR1).said
    heard = Stopped(_how(1, said), said, told=True)
    assert (heard.why, heard.exit_code) == ("stopped by SIGUSR1, which process 1 got", 143)
    _requeue(heard)
    _requeue(Stopped("stopped by SIGTERM, which process 1 got", 143, told=True))
    assert Path("requeued").read_text() == "requeue 7\n"
