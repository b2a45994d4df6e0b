"""What all tests share: one thread, and which warnings of others are let through."""

import os
import shutil
import subprocess

import pytest
import torch

# toy networks run slower on several threads than on one, and processes started by tests would fight over the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Keep pyproject's exceptions under `pytest -W error` too: a filter on the command line would beat them."""
    exceptions = [line for line in config.getini("filterwarnings") if line.startswith("ignore")]
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(*exceptions))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Examples are tried in the package alone: under tests/ no file is imported to look for some."""
    return [one for one in (yield) if type(one) is pytest.Module]


def pytest_xdist_auto_num_workers():
    """One more than there are cores, as some tests wait for clocks and for other processes."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def fixed():
    """Make files and folders immutable, whoever writes, and mutable again at the end."""
    done = []

    def fix(path):
        if not shutil.which("chattr") or subprocess.run(["chattr", "+i", str(path)], capture_output=True).returncode:
            pytest.skip("this file system, or this user, knows no immutable files")
        done.append(path)

    yield fix
    for path in done:
        subprocess.run(["chattr", "-i", str(path)], check=True)
