"""Every benchmark runs, in miniature: a number that nobody can print again is no number."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from programs import run_program

from benchmarks import zoo
from benchmarks.fuzz_targets import TARGETS
from lightning_gradood import gradients

COMMANDS = {
    "run": ("--networks resnet18 --batch 1 --rounds 1 --contenders ours loop --out results.json", "ours"),
    "once": ("--networks resnet18 --images 2 --batch 1", "peaks"),
    "attacks": ("--attacks FGSM --batch 2 --rounds 1", "FGSM"),
    "detectors": ("--records 300 --detectors KNN", "KNN"),
    "memory": ("--images 60 --sources 1", "1.000 x the smallest"),
    "scaling": ("--processes 1 --images 40", "1.00"),
    "fuzz": ("--cases 6 --targets splits", "failures"),
    "metrics": ("--scores 2000 --resamples 5", "sum without conventions"),
    "end_to_end": ("--network resnet20 --images 12", "share of required passes"),
    "trained": ("--images pictures --networks mobilenet_v3_small --steps 10 --batch 4 --compared 4", "fast"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_prints_its_numbers(name, tmp_path, pytestconfig):
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    flags, expected = COMMANDS[name]
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    done = run_program([sys.executable, "-m", f"benchmarks.{name}", *flags.split()], tmp_path, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected in done.stdout


def test_threads_are_compared(tmp_path, pytestconfig):
    words = ["--busy", "0", "--network", "resnet18", "--batch", "1", "--steps", "1"]
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    done = subprocess.run(  # several threads, which a fork cannot have
        [sys.executable, "-m", "benchmarks.threads", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "best fixed number" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_no_damaged_file_ends_in_a_traceback(target, tmp_path, pytestconfig):
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", target, "--cases", "24"]
    done = run_program(command, tmp_path, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cases"] > 0
    assert found["failures"] == 0, found["places"]


def test_the_zoo_tells_a_wrong_engine_from_a_right_one(monkeypatch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    network, images = network.double().eval(), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    assert zoo.compared(network, images)["way"] == "fast"
    right = gradients.squared_gradient_norms
    monkeypatch.setattr(gradients, "squared_gradient_norms", lambda *given: right(*given) * (1 + 1e-6))
    assert zoo.compared(network, images)["way"] == "WRONG"


def test_the_zoo_prints_its_line(tmp_path, pytestconfig):
    pytest.importorskip("timm")
    words = ["--families", "MobileNetV2", "--rounds", "1", "--out", "zoo.json"]
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    done = run_program([sys.executable, "-m", "benchmarks.zoo", *words], tmp_path, environment)
    assert "1 families: 1 fast, 0 loop, 0 WRONG, 0 traceback" in done.stdout, done.stderr[-2000:]
