"""Two processes probe each image once between them and leave the table that one process leaves."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from probe_on_two_processes import PERTURBED, RUNS
from programs import run_program
from small_experiment import data, probe, tables, task

from lightning_gradood.records import RecordCache, Records

SCRIPT = Path(__file__).with_name("probe_on_two_processes.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Probe on one process, by number of images."""
    folder = tmp_path_factory.mktemp("alone")
    return {limit: probe(folder, task(), data(limit=limit)) for limit in set(RUNS.values())}


@pytest.fixture(scope="module")
def together(tmp_path_factory, alone):
    """Probe on two processes and return the folder; one of the caches lacks one image of each entry."""
    folder = tmp_path_factory.mktemp("together")
    for (_, entry), records in zip(enumerate(alone[12].entries), tables(alone[12]).values(), strict=True):
        RecordCache(folder / "resumed").write_shard(entry.key, Records(records.table.slice(0, 11)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(folder)]
    ended = run_program(command, environment=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return folder


def probed(folder, run):
    """The ids that each process probed."""
    return [json.loads((folder / f"{run}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("run", ["even", "odd", "resumed"])
def test_two_processes_leave_the_table_of_one(together, alone, run):
    one = alone[RUNS[run]]
    for entry, records in zip(one.entries, tables(one).values(), strict=True):
        found = RecordCache(together / run).read(entry.key)
        assert found.ids == records.ids
        assert found.probe(entry.probe) == pytest.approx(records.probe(entry.probe), rel=1e-4, abs=1e-12)
        assert found.names(entry.probe) == records.names(entry.probe)
        plain = [name for name in found.table.column_names if name not in found.probes]
        assert found.table.select(plain).to_pylist() == records.table.select(plain).to_pylist()


@pytest.mark.parametrize("run", ["even", "odd"])
def test_each_image_is_probed_by_one_process_once(together, run):
    first, second = probed(together, run)
    sources = data(limit=RUNS[run]).detection_sources.values()
    assert Counter(first + second) == Counter(name for source in sources for name in source.ids)
    assert abs(len(first) - len(second)) <= 2  # at most one image of each of the two sources


def test_a_second_run_probes_nothing_on_any_process(together):
    assert probed(together, "again") == [[], []]


def test_one_missing_image_does_not_stop_two_processes(together, alone):
    """Each process needs an image to load; one whose records are there already is not probed again."""
    first, second = probed(together, "resumed")
    missing = {records.ids[-1] for records in tables(alone[12]).values()}
    assert sorted(first + second) == sorted(missing)


def test_attacks_and_corruptions_do_not_depend_on_the_number_of_processes(together, tmp_path):
    one = probe(tmp_path, task(), data(**PERTURBED))
    expected = tables(one)
    assert {source for source, _ in expected} == {"normal", "nine", "pgd", "pgd.noise", "iterll", "iterll.noise", "fog"}
    for entry, records in zip(one.entries, expected.values(), strict=True):
        found = RecordCache(together / "perturbed").read(entry.key)  # the same keys: nothing in them knows of processes
        assert found.ids == records.ids
        for name in ("origin_id", "attack", "label"):
            assert found.column(name).tolist() == records.column(name).tolist()
        assert found.column("l2") == pytest.approx(records.column("l2"), rel=0.02, abs=1e-6)  # a sign may flip at zero
        close = np.isclose(found.probe(entry.probe), records.probe(entry.probe), rtol=1e-2, atol=1e-12).all(axis=1)
        assert close.mean() >= 0.9


def test_only_whole_entries_are_left(together):
    left = {path.name for run in ("even", "odd", "resumed", "perturbed") for path in (together / run).iterdir()}
    assert all(len(name) == 64 for name in left)
