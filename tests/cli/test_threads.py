"""Threads: this process' share of the processors, or what the user says; and how long they spin while they wait."""

import os
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import torch

from lightning_gradood.cli import defaults


def test_processors_are_shared_by_two_processes_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(defaults, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trainer = SimpleNamespace(num_devices=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    before = torch.get_num_threads()
    try:
        for variables, threads, expected in [
            ({}, None, 4),
            ({"SLURM_CPUS_PER_TASK": "8"}, None, 8),  # the affinity is that of this process alone
            ({"OMP_NUM_THREADS": "2"}, None, 2),
            ({"OMP_NUM_THREADS": "2"}, 3, 3),
        ]:
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                with ExitStack() as leaving:
                    defaults.set_threads(trainer, threads, leaving)
                    assert torch.get_num_threads() == expected
                    assert os.environ["OMP_NUM_THREADS"] == str(expected), "what Lightning starts gets it"
                assert os.environ.get("OMP_NUM_THREADS") == variables.get("OMP_NUM_THREADS")
    finally:
        torch.set_num_threads(before)


def test_threads_sleep_soon_while_they_wait_unless_the_user_says_otherwise():
    script = (  # libgomp reads the variable when torch is loaded
        "import atexit, os, sys\nsys.argv = ['gradood', '--version']\nfrom lightning_gradood.cli import main\n"
        "atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules))\nmain()"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for variables, spins in [({}, 10000), ({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, env=plain | variables, capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines()[-1] == f"{spins} False"
