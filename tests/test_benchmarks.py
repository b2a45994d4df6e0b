"""Benchmarks are no tests: that each can be started, that the fuzzer finds nothing, and that the zoo can find something."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from programs import run_program

from benchmarks import zoo
from benchmarks.fuzz_targets import TARGETS
from lightning_gradood import gradients

ROOT = Path(__file__).parents[1]
HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert ended.code == 0, name
    else:
        raise AssertionError(f"{name} has no --help")
"""


def run(folder, *words):
    """Run Python with the checkout on its path, and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run_program([sys.executable, *words], folder, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_each_can_be_started(tmp_path):
    names = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]
    printed = run(tmp_path, "-c", HELP, *names)
    assert len(names) > 10
    assert printed.count("usage: ") == len(names)
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
    found = json.loads(run(tmp_path, "-m", "benchmarks.fuzz", "--worker", target, "--cases", "24").splitlines()[-1])
    assert found["cases"] > 0
    assert found["failures"] == 0, found["places"]
