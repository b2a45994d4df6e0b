"""Every benchmark runs, in miniature: a number that nobody can print again is no number."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

COMMANDS = {
    "run": ("--networks resnet18 --batch 2 --rounds 1 --contenders ours loop --out results.json", "ours"),
    "once": ("--networks resnet18 --images 4 --batch 2", "peaks"),
    "attacks": ("--attacks FGSM --batch 2 --rounds 1", "FGSM"),
    "detectors": ("--records 300 --detectors Baseline KNN", "KNN"),
    "metrics": ("--scores 2000 --resamples 5", "sum without conventions"),
    "end_to_end": ("--network resnet20 --images 20", "share of required passes"),
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
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags.split()],
        env=os.environ | {"PYTHONPATH": str(pytestconfig.rootpath), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected in done.stdout
