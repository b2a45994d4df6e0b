"""Two processes probe each image once between them, learn once, and leave the table that one process leaves."""

import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from small_experiment import STEPPING, CountedProbe, data, probe, tables, task, trained_data

from lightning_gradood.extraction.batch_records import BatchReader
from lightning_gradood.perturbations import PGD, Corruption, IterLL
from lightning_gradood.records import RecordCache, Records

RUNS = {"odd": 9, "again": 9, "resumed": 12}  # images of each source; "again" reads what "odd" has written
PERTURBED = {  # PGD starts at random, fog is drawn at random: both by the image's id
    "attacks": {"pgd": PGD(eps=0.1, step=0.05, steps=3), "iterll": IterLL(eps=0.1, step=0.05, steps=3)},
    "corruptions": {"fog": Corruption("fog")},
    "noise_control": True,
    "limits": {"iterll": 10},
    "limit": 21,
}


def main(folder):
    """Probe on two gloo processes, writing what each of them read and learnt."""
    ids, read = [], BatchReader._read

    def noting(self, probes, images):
        ids.extend(images.ids)
        return read(self, probes, images)

    def tell(run, told):
        (folder / f"{run}-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(told))

    BatchReader._read = noting
    warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")
    two = {"strategy": "ddp", "devices": 2}
    for run, limit in RUNS.items():
        ids.clear()
        cache = folder / ("odd" if run == "again" else run)
        probe(cache, task(), data(limit=limit), only_missing=run == "resumed", **two)
        tell(run, ids)
    probe(folder / "perturbed", task(), data(**PERTURBED), **two)
    for run in ("learning", "learnt"):
        counted = CountedProbe(STEPPING)
        plan = probe(folder / "prepared", task(), trained_data(), [counted], **two).reader.plan
        tell(run, {"prepared": sum(counted.prepared), "missing": len(plan.missing)})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {limit: probe(folder, task(), data(limit=limit)) for limit in set(RUNS.values())}


@pytest.fixture(scope="module")
def together(tmp_path_factory, alone):
    """Probe on two processes and return the folder; one of the caches lacks one image of each entry."""
    from programs import run_program  # not in the processes, which know this folder alone

    folder = tmp_path_factory.mktemp("together")
    for entry, records in zip(alone[12].entries, tables(alone[12]).values(), strict=True):
        RecordCache(folder / "resumed").write_shard(entry.key, Records(records.table.slice(0, 11)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = run_program([sys.executable, __file__, str(folder)], environment=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return folder


def told(folder, run):
    return [json.loads((folder / f"{run}-{rank}.json").read_text()) for rank in range(2)]


def pairs(cache, one):
    """Each entry's probe with its records by two processes and by one; they are of the same images."""
    for entry, records in zip(one.entries, tables(one).values(), strict=True):
        found = RecordCache(cache).read(entry.key, records.ids)  # the same keys: nothing in them knows of processes
        assert {*found.ids} == RecordCache(cache).done(entry.key)
        yield entry.probe, found, records


def test_two_processes_leave_the_table_of_one(together, alone):
    for run in ("odd", "resumed"):
        for probe_, found, records in pairs(together / run, alone[RUNS[run]]):
            assert found.probe(probe_) == pytest.approx(records.probe(probe_), rel=1e-4, abs=1e-12)
            assert found.names(probe_) == records.names(probe_)
            assert found.only([]).table.to_pylist() == records.only([]).table.to_pylist()


def test_each_image_is_probed_by_one_process_once_and_never_again(together, alone):
    first, second = told(together, "odd")
    sources = data(limit=9).sources.clean.values()
    assert Counter(first + second) == Counter(name for source in sources for name in source.ids)
    assert abs(len(first) - len(second)) <= 2  # at most one image of each of the two sources
    assert told(together, "again") == [[], []]
    # each process needs an image to load: the one that is missing of a source is read by both
    missing = {records.ids[-1] for records in tables(alone[12]).values()}
    assert [set(ids) for ids in told(together, "resumed")] == [missing, missing]


def test_attacks_and_corruptions_do_not_depend_on_the_number_of_processes(together, tmp_path):
    one = probe(tmp_path, task(), data(**PERTURBED))
    names = {"normal", "nine", "pgd", "pgd.noise", "iterll", "iterll.noise", "fog"}
    assert {entry.source for entry in one.entries} == names
    for probe_, found, records in pairs(together / "perturbed", one):
        for name in ("origin_id", "attack", "label"):
            assert found.column(name).tolist() == records.column(name).tolist()
        assert found.column("l2") == pytest.approx(records.column("l2"), rel=0.02, abs=1e-6)  # a sign may flip at zero
        close = np.isclose(found.probe(probe_), records.probe(probe_), rtol=1e-2, atol=1e-12).all(axis=1)
        assert close.mean() >= 0.9


def test_what_is_learnt_from_training_images_is_learnt_once_and_is_that_of_one_process(together, tmp_path):
    first, second = told(together, "learning")
    assert (first["prepared"], second["prepared"]) == (len(trained_data().sources.train), 0)
    assert told(together, "learnt") == [{"prepared": 0, "missing": 0}] * 2
    one = probe(tmp_path, task(), trained_data(), [CountedProbe(STEPPING)])
    (mine,), (theirs,) = tmp_path.glob("*/*.safetensors"), (together / "prepared").glob("*/*.safetensors")
    expected, found = load_file(mine), load_file(theirs)
    assert (mine.name, expected.keys()) == (theirs.name, found.keys())
    assert all(found[name].numpy() == pytest.approx(expected[name].numpy(), rel=1e-9) for name in expected)
    for probe_, others, records in pairs(together / "prepared", one):
        assert others.probe(probe_) == pytest.approx(records.probe(probe_), rel=1e-3, abs=1e-3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
