"""The command line on two gloo processes, and two runs at once: one table, every image once; threads are shared by processes."""

import os
import platform
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from programs import run_program
from tiny import FILE, IMAGES, all_refused, numbers, results, table

from lightning_gradood.cli import defaults, main
from lightning_gradood.core import hold

PROGRAM = [sys.executable, "-m", "lightning_gradood"]
DOUBLED = """
from torch import nn
from lightning_gradood.networks import CifarResNet

class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = CifarResNet(1, num_classes=3)

    def forward(self, images):
        return 2 * self.body(images)
"""
TWO = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def launched(words):
    """Run the program as a user does; Lightning starts the second process from the first. Returns what it says on stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = run_program([*PROGRAM, *words, *TWO], environment=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr
    for word in ("Traceback", "Warning", "It is recommended"):
        assert word not in ended.stderr, ended.stderr
    assert ended.stdout.count("Results and figures: ") == 1
    assert [line.split()[0] for line in table(ended.stdout).splitlines()[2:4]] == ["nine", "photographs"]
    return ended.stderr


def assert_equal_but_for_rounding(numbers, others):
    """Batches of other sizes, and MLPs trained beside others, are summed in another order: the last float32 digits differ."""
    for mine, theirs in zip(numbers, others, strict=True):
        assert mine["threshold"] == pytest.approx(theirs["threshold"], rel=1e-5)
        assert mine["curves"] == [pytest.approx(epoch, rel=1e-5) for epoch in theirs["curves"]]
        inexact = {"threshold": None, "curves": None}
        assert mine | inexact == theirs | inexact


def assert_each_image_has_one_record(cache):
    """Each process writes the records it computed."""
    shards = {entry: list(entry.glob("*.parquet")) for entry in Path(cache).iterdir()}
    assert {len(files) for files in shards.values()} == {2}
    ids = [
        [one for file in files for one in pq.ParquetFile(file).read(["id"])["id"].to_pylist()]
        for files in shards.values()
    ]
    assert [len(set(one)) for one in ids] == [len(one) for one in ids]
    assert sum(map(len, ids)) == 2 * IMAGES  # gradients and logits


def test_detect_reads_each_image_once_and_gives_the_numbers_of_one_process(run):
    before = numbers(run)
    launched(["detect", *FILE, "--run_dir", str(run), "--cache_dir", "new"])
    assert_equal_but_for_rounding(numbers(run), before)
    assert_each_image_has_one_record("new")


def test_under_protocol_openood_two_processes_give_the_numbers_of_one_and_leave_out_the_same_methods(module):
    module("own_network", DOUBLED)
    words = [
        *FILE,
        "--model.network",
        "own_network.Doubled",
        "--data.limits.images",
        "60",
        "--detection.preset",
        "post_hoc",
    ]
    words += ["--detection.protocol", "openood", "--detection.validation", "six", "--detection.fit_on", "train"]
    words += ["--data.anomalies.six", "{class_path: DigitsSource, init_args: {digits: [6]}}"]
    words += ["--data.groups", "{near: [nine], far: [photographs]}"]
    said = launched(["fit", *words, "--run_dir", "doubled"])
    main(["detect", *words, "--ckpt_path", "doubled/checkpoints/best.ckpt", "--run_dir", "alone", "--cache_dir", "new"])
    assert_equal_but_for_rounding(numbers("doubled"), numbers("alone"))
    assert {one["trained_on"] for one in numbers("alone")} == {"validation", "normal"}
    found = {one["detector"] for one in results("doubled")["outcomes"]}
    assert {"mlp", "baseline", "maxlogit", "gen", "energy", "klm", "she", "knn"} <= found
    for name in ("gradnorm", "react", "ash", "scale", "adascale", "dice", "vim"):
        assert name not in found
        assert len(re.findall(rf"^Left out of --detection.preset post_hoc: .*\b{name}\b", said, re.M)) == 1


def test_of_two_runs_in_one_folder_the_second_is_refused_and_writes_nothing(run, capsys):
    words = f"`run_dir = {run}`, held by process {os.getpid()} on"
    with hold(run):
        all_refused([([verb, *FILE, "--run_dir", str(run)], words) for verb in ("detect", "fit")], capsys)


def test_processors_are_shared_by_two_processes_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(defaults, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trainer = SimpleNamespace(num_devices=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    before = torch.get_num_threads()
    try:
        for variables, threads, expected in [
            ({}, None, 4),
            ({"SLURM_CPUS_PER_TASK": "8"}, None, 8),  # the affinity is that of this process alone
            ({"OMP_NUM_THREADS": "2"}, None, 2),
            ({"OMP_NUM_THREADS": "2"}, 3, 3),
        ]:
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                with ExitStack() as leaving:
                    defaults.set_threads(trainer, threads, leaving)
                    assert torch.get_num_threads() == expected
                    assert os.environ["OMP_NUM_THREADS"] == str(expected), "what Lightning starts gets it"
                assert os.environ.get("OMP_NUM_THREADS") == variables.get("OMP_NUM_THREADS")
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has a heap of another kind")
def test_large_blocks_are_kept_for_the_next_operation_unless_the_user_says_otherwise():
    script = (
        "import atexit, ctypes, sys\nsys.argv = ['gradood', '--version']\nfrom lightning_gradood.cli import main\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) // 256\n"
        "def kept():\n    libc, before = ctypes.CDLL(None), resident()\n    libc.malloc.restype = ctypes.c_void_p\n"
        "    block = ctypes.c_void_p(libc.malloc(2**28))\n    ctypes.memset(block, 1, 2**28)\n    libc.free(block)\n"
        "    print(resident() - before > 200)\natexit.register(kept)\nmain()"
    )
    for variables, kept in [({}, "True"), ({"MALLOC_MMAP_MAX_": "65536"}, "False")]:
        command, env = [sys.executable, "-c", script], dict(os.environ) | variables
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines()[-1] == kept, variables


def test_the_program_finds_modules_of_the_current_folder(tmp_path):
    (tmp_path / "network_of_mine.py").write_text("print('found')")
    script = "import contextlib, sys\nsys.argv = ['gradood', '--version']\nfrom lightning_gradood.cli import main\n"
    script += "with contextlib.suppress(SystemExit): main()\nimport network_of_mine"
    command = [sys.executable, "-P", "-c", script]  # as for the installed program, the folder is not on the path
    assert "found" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_threads_sleep_soon_while_they_wait_unless_the_user_says_otherwise():
    script = (  # libgomp reads the variable when torch is loaded
        "import atexit, os, sys\nsys.argv = ['gradood', '--version']\nfrom lightning_gradood.cli import main\n"
        "atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules))\nmain()"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for variables, spins in [({}, 10000), ({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, env=plain | variables, capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines()[-1] == f"{spins} False"
