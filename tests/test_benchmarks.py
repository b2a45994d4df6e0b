"""Benchmarks are no tests: that each can be started, that the fuzzer finds nothing, and that the zoo can find something."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from programs import run_program

from benchmarks import zoo
from benchmarks.fuzz_targets import TARGETS
from lightning_gradood import gradients

ROOT = Path(__file__).parents[1]


def test_each_can_be_started(tmp_path, monkeypatch, capsys):
    paths = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]
    monkeypatch.chdir(tmp_path)
    assert len(paths) > 10
    for path in paths:
        monkeypatch.setattr("sys.argv", [path.stem, "--help"])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(path), run_name="__main__")
        assert "usage: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_zoo_tells_a_wrong_engine_from_a_right_one(monkeypatch):
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    network, images = torch.nn.Sequential(*layers).double().eval(), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    assert zoo.compared(network, images)["way"] == "fast"
    right = gradients.squared_gradient_norms
    monkeypatch.setattr(gradients, "squared_gradient_norms", lambda *given: right(*given) * (1 + 1e-6))
    assert zoo.compared(network, images)["way"] == "WRONG"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_damaged_file_ends_in_a_traceback(target, tmp_path):
    command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", target, "--cases", "24"]
    done = run_program(command, tmp_path, os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cases"] > 0
    assert found["failures"] == 0, found["places"]
