"""Two processes learn from the training images once between them, and leave what one process leaves."""

import json
import os
import sys
from pathlib import Path

import pytest
from preparing_experiment import STEPPING, CountedProbe, trained_data
from programs import run_program
from safetensors.torch import load_file
from small_experiment import probe, tables, task

from lightning_gradood.records import RecordCache

SCRIPT = Path(__file__).with_name("prepare_on_two_processes.py")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Probe twice on two processes."""
    folder = tmp_path_factory.mktemp("together")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(folder)]
    ended = run_program(command, environment=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return folder


def told(folder, run):
    """What each process tells of a run."""
    return [json.loads((folder / f"{run}-{rank}.json").read_text()) for rank in range(2)]


def test_the_first_process_learns_and_both_load(together):
    first, second = told(together, "first")
    assert first["prepared"] == len(trained_data().train_source)
    assert second["prepared"] == 0
    assert first["loaded"] == second["loaded"] == 1


def test_a_second_run_learns_nothing(together):
    assert told(together, "again") == [{"prepared": 0, "loaded": 0, "missing": 0}] * 2


def test_what_is_learnt_and_probed_is_that_of_one_process(together, tmp_path):
    one = probe(tmp_path, task(), trained_data(), [CountedProbe(STEPPING)])
    (mine,), (theirs,) = tmp_path.glob("*.safetensors"), (together / "cache").glob("*.safetensors")
    assert mine.name == theirs.name
    expected, found = load_file(mine), load_file(theirs)
    assert expected.keys() == found.keys()
    assert all(found[name].numpy() == pytest.approx(expected[name].numpy(), rel=1e-9) for name in expected)
    for entry, records in zip(one.entries, tables(one).values(), strict=True):
        others = RecordCache(together / "cache").read(entry.key)
        assert others.ids == records.ids
        assert others.probe(entry.probe) == pytest.approx(records.probe(entry.probe), rel=1e-3, abs=1e-3)
