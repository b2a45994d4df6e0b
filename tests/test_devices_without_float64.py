"""What the package does on a device without float64, as Apple's MPS is one.

Each file below runs in a process of its own: torch has to know a device before the first backward pass, and would not forget
it afterwards.
"""

import sys
from pathlib import Path

import pytest
from programs import run_program

TESTS = Path(__file__).parent
FILES = sorted(TESTS.glob("*/*on_float32_device.py"))


def test_the_files_are_there():
    assert {path.parent.name for path in FILES} == {"attacks", "cli", "gradients", "probes", "tasks"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_in_a_process_of_its_own(path):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(path)]
    ended = run_program(command, TESTS.parent)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
