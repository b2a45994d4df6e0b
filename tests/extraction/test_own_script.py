"""The example runs as its first lines say, on one and on two processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gradood.records import RecordCache

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "examples" / "own_script.py"


def run(folder, devices):
    """Run the script on a few images; return what it printed."""
    words = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    words += ["-W", "ignore::UserWarning", str(SCRIPT), "--devices", str(devices), "--images", "41"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*words, "--cache", str(folder / "cache")], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def tables(folder):
    """The records of every entry, by ids."""
    cache = RecordCache(folder / "cache")
    keys = sorted(path.parent.name for path in (folder / "cache").glob("*/entry.json"))
    return [cache.read(key) for key in keys]


@pytest.mark.parametrize("devices", [1, 2])
def test_the_example_prints_an_auroc_for_each_source_and_reads_each_image_once(tmp_path, devices):
    printed = run(tmp_path, devices)
    assert re.findall(r"^(\w+): AUROC [01]\.\d{3} \[", printed, re.MULTILINE) == ["digit_9", "fgsm"]
    found = tables(tmp_path)
    assert len(found) == 3  # of the normal source, the nines and the attacked images
    for records in found:
        assert len(set(records.ids)) == len(records) == 41
