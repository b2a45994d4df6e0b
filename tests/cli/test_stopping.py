"""A plain `kill` in the middle of probing: the process ends, and the next reads only the rest."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import FILE, IMAGES, results

from lightning_gradood.cli import main
from lightning_gradood.networks import CifarResNet

SLOW = """
import os, time
from lightning_gradood.networks import CifarResNet

class Slow(CifarResNet):
    def forward(self, images):
        if "SECONDS" in os.environ and len(images) > 3:  # not where the engine makes its plan
            with open("passes", "a") as file:
                file.write("x")
            time.sleep(float(os.environ["SECONDS"]))
        return super().forward(images)
"""
NETWORK = {"class_path": "slow.Slow", "init_args": {"blocks_per_stage": 1, "num_classes": 3}}
COMMAND = ["detect", *FILE, "--data.train", "null", "--model.network", str(NETWORK), "--model.weights", "some.pt"]
COMMAND += ["--data.probe_batch_size", "4"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_stopped_run_ends_soon_and_keeps_what_it_has_read(number, code, workplace, monkeypatch, probed):
    Path("slow.py").write_text(SLOW)
    torch.save(CifarResNet(blocks_per_stage=1, num_classes=3).state_dict(), "some.pt")
    monkeypatch.syspath_prepend(workplace)
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_gradood", *COMMAND],
        env=os.environ | {"OMP_NUM_THREADS": "1", "SECONDS": "1.0"}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )  # fmt: skip
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
