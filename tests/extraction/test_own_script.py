"""The example runs as its first lines say, on one and on two processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gradood.records import RecordCache

SCRIPT = Path(__file__).parents[2] / "examples" / "own_script.py"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_the_example_prints_an_auroc_for_each_source_and_reads_each_image_once(tmp_path, devices):
    words = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    words += ["-W", "ignore::UserWarning", str(SCRIPT), "--devices", str(devices), "--images", "41", "--cache", "cache"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert re.findall(r"^(\w+): AUROC [01]\.\d{3} \[", ended.stdout, re.MULTILINE) == ["digit_9", "fgsm"]
    keys = {path.parent.name for path in (tmp_path / "cache").glob("*/*.parquet")}
    assert len(keys) == 3  # of the normal source, the nines and the attacked images
    for key in keys:
        assert len(RecordCache(tmp_path / "cache").done(key)) == 41
