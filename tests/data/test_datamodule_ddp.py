"""Two processes see each image of each source once between them."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from image_files import write_images
from programs import run_program

SCRIPT = Path(__file__).with_name("predict_on_two_processes.py")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Run the script once and return its folder and how it ended."""
    folder = tmp_path_factory.mktemp("ddp")
    for seed, (name, count) in enumerate({"normal/a": 4, "normal/b": 4, "odd": 7}.items()):
        write_images(folder / name, count, seed=seed)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(folder)]
    return folder, run_program(command, environment=environment, timeout=240)


@pytest.mark.parametrize(
    ("rows", "normal", "odd"),
    [("all", [f"{c}/00{n}" for c in "ab" for n in range(4)], range(7)), ("some", [], [2, 4, 5])],
)
def test_each_row_occurs_on_one_process_once(predicted, rows, normal, odd):
    folder, ended = predicted
    assert (folder / f"{rows}-1.json").exists(), ended.stderr
    seen = [json.loads((folder / f"{rows}-{rank}.json").read_text()) for rank in range(2)]
    expected = [f"normal/{key}.png" for key in normal] + [f"odd/00{n}.png" for n in odd]
    assert Counter(seen[0] + seen[1]) == Counter(expected)
    assert all(seen)


def test_fewer_rows_than_processes_are_refused(predicted):
    _, ended = predicted
    assert ended.returncode != 0
    words = "`odd` should have at least one image for each process. Got `odd` with 1 to probe and 2 processes."
    assert words in ended.stderr
