"""How many threads: affinity, quotas of control groups, processes of the machine, what the user says, and what is measured."""

import os
import time

import pytest
import torch

from lightning_gradood.core import choose_threads, processes_per_machine, usable_processors


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Eight processors, and torch's threads as they were."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what is set is undone
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    yield
    torch.set_num_threads(before)


def group(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),  # of a group above
        ({"proc/self/cgroup": "0::/host/path\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),  # as in a container
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
    ids=["none", "v2_max", "v2", "v2_above", "v2_container", "v1", "v1_none"],
)
def test_processors_are_those_of_affinity_and_quota(files, processors, tmp_path):
    group(tmp_path, files)
    assert usable_processors(tmp_path) == processors


def test_launchers_say_how_many_processes_share_a_machine():
    assert processes_per_machine(2, {}) == 2
    assert processes_per_machine(1, {"LOCAL_WORLD_SIZE": "4"}) == 4
    assert processes_per_machine(1, {"SLURM_NTASKS_PER_NODE": "3(x2)"}) == 3


def test_what_the_user_says_wins_and_is_not_measured(tmp_path):
    def never():
        raise AssertionError

    assert choose_threads(never, threads=3, environment={"OMP_NUM_THREADS": "2"}, root=tmp_path).number == 3
    assert torch.get_num_threads() == 3
    assert choose_threads(never, environment={"OMP_NUM_THREADS": "2"}, root=tmp_path).number == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"  # what is started gets it
    assert choose_threads(never, processes=8, environment={}, root=tmp_path).number == 1  # nothing to choose


@pytest.mark.parametrize(("slower", "expected"), [(1, 4), (4, 1)])
def test_the_faster_number_is_chosen_and_said(slower, expected, tmp_path):
    def step():
        time.sleep(0.02 if torch.get_num_threads() == slower else 0.001)

    choice = choose_threads(step, processes=2, environment={}, root=tmp_path)
    assert choice.number == torch.get_num_threads() == expected
    assert f"{choice}".startswith(f"Computing on {expected} thread")
    assert "8 processors for 2 processes; a step took" in f"{choice}"


def test_slurm_has_shared_processors_out_by_affinity(tmp_path):
    environment = {"SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS_PER_NODE": "4"}
    assert choose_threads(processes=4, environment=environment, root=tmp_path).number == 8


def test_slow_steps_are_not_repeated(tmp_path):
    calls = []

    def step():
        calls.append(torch.get_num_threads())
        time.sleep(1.1)

    choose_threads(step, environment={}, root=tmp_path)
    assert calls == [1, 8]
