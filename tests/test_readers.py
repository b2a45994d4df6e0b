"""Wherever a file is read, one that would execute code when unpickled executes none."""

import hashlib
import json
import pickle
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import shared

from benchmarks.fuzz_targets import saved_guard, signed
from lightning_gradood.core import Refusal, read_picture
from lightning_gradood.data import Outputs
from lightning_gradood.detectors import load_detector
from lightning_gradood.guard import Guard
from lightning_gradood.networks import load_weights
from lightning_gradood.records import RecordCache, read_rows
from lightning_gradood.records.cache import _FORMAT
from lightning_gradood.report import Run
from lightning_gradood.report.run import read_arrays

sys.path.insert(0, str(Path(__file__).parent / "cli"))
from bad_inputs import Malicious
from tiny import refused


def bomb(path, kind="pickle"):
    """Write a file that makes the folder `executed` where it is unpickled, or parsed as YAML with Python's tags."""
    if kind == "torch":
        torch.save({"state_dict": {"weight": Malicious()}, "pytorch-lightning_version": "2"}, path)
    elif kind == "numpy":
        with open(path, "wb") as file:  # by its name NumPy would add a suffix
            np.savez(file, index=np.array([Malicious()], dtype=object))
    else:
        yaml = b"a: !!python/object/apply:os.mkdir [executed]\n"
        Path(path).write_bytes(yaml if kind == "yaml" else pickle.dumps(Malicious()))
    return path


KINDS = ("pickle", "yaml", "torch", "numpy")
WEIGHTS, TABLES = ("x.pt", "x.ckpt", "x.safetensors"), ("x.parquet", "x.jsonl")
FILES = [  # a name, and what reads it
    *((name, partial(load_weights, torch.nn.Linear(1, 1), name)) for name in WEIGHTS),
    *((name, partial(read_rows, Path(name))) for name in TABLES),
    ("x.safetensors", partial(load_detector, "x.safetensors")),
    ("x.png", partial(read_picture, "x.png")),
    ("figures.npz", partial(read_arrays, Path("figures.npz"))),
    ("results.parquet", partial(read_rows, Path("results.parquet"))),
    ("provenance.json", partial(Run.read, Path("."))),
    ("names.yaml", partial(Outputs.read, "names.yaml")),
]


def single_files(whole, capsys):
    for name, read in FILES:
        for kind in KINDS:
            bomb(name, kind)
            with pytest.raises(Refusal):
                read()
            assert not Path("executed").exists(), (name, kind)
    bomb("x.csv")
    with suppress(Refusal):
        read_rows(Path("x.csv"))  # anything may be one column of text


def arguments(whole, capsys):
    for words in (["fit", "--config"], ["benchmark", "--config"]):
        refused([*words, str(bomb(Path("theirs.yaml"), "yaml"))], capsys)
    for name, kind in (("x.ckpt", "torch"), ("x.ckpt", "pickle"), ("x.safetensors", "pickle")):
        refused(["fit", "--config", str(whole / "fuzz.yaml"), "--ckpt_path", str(bomb(Path(name), kind))], capsys)


def records(whole, capsys):
    shutil.copytree(whole / "cache", "cache")
    (entry, *_) = sorted(path.parent for path in Path("cache").rglob("*.parquet"))
    content = pickle.dumps(Malicious())
    seal = hashlib.sha256(f"{_FORMAT}/{entry.name}/".encode() + content).hexdigest()  # one that fits
    for suffix in ("parquet", "safetensors"):
        (entry / f"{seal}.{suffix}").write_bytes(content)
    with pytest.raises(Refusal, match="what cannot be read"):
        RecordCache(entry.parent).read_state(entry.name)
    with pytest.raises(Refusal, match="what cannot be read"):
        RecordCache(entry.parent).read(entry.name, [])


def guards(whole, capsys):
    """Each file of a guard, under hashes that fit."""
    place = Path(shutil.copytree(whole / "run/guard", "guard"))
    about = json.loads((place / "guard.json").read_text())
    names = sorted(about["files"])
    for name in [*names, "guard.json"]:
        intact = (place / name).read_bytes()
        bomb(place / name)
        if name != "guard.json":
            (place / "guard.json").write_text(json.dumps(signed(about, place, names)))
        with pytest.raises(Refusal):
            Guard.load(place)
        (place / name).write_bytes(intact)


@pytest.mark.parametrize("case", [single_files, arguments, records, guards])
def test_nothing_is_executed(case, capsys, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning_gradood"])
    whole = shared(tmp_path_factory, "read", saved_guard)  # a run with its records and its guard
    monkeypatch.chdir(tmp_path)
    case(whole, capsys)
    assert not Path("executed").exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("executed").exists(), "the bomb is live"
