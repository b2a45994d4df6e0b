"""How many threads torch should compute with: what this process may use, checked against a few measured steps.

torch's threads wait for each other actively: where other programs want the same processors, two threads can be twenty times
slower than one, and in a container torch starts a thread for each processor of the host. This counts the processors that the
process may run on (affinity) and that its control group allows (quota), and divides them among the processes of the machine.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

_PER_MACHINE = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")
_ONE_TASK = "SLURM_CPUS_PER_TASK"
_GIVEN = "OMP_NUM_THREADS"
_SECONDS = 2.0  # that the measurement takes at most, plus one step
_STEPS = 3
_BETTER = 1.1  # several threads must be this much faster than one: a tie leaves processors to others


@dataclass(frozen=True)
class Threads:
    """A choice.

    Args:
        number: of threads.
        why: in a few words, for the user.
    """

    number: int
    why: str

    def __str__(self) -> str:
        return f"Computing on {self.number} thread{'s' * (self.number > 1)}: {self.why}."


def usable_processors(root: Path = Path("/")) -> float:
    """Processors that this process may use: its affinity, or less where the control group has a quota.

    Args:
        root: of the file system, to be replaced in tests.
    """
    affinity = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1
    return min([float(affinity), *_quotas(root)])


def _quotas(root: Path) -> list[float]:
    """Quotas, in processors, of this process' control groups and all above them, versions 1 and 2."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version_1 = "cpu" in controllers.split(",")
        if controllers and not version_1:
            continue
        mount = root / "sys/fs/cgroup"
        mount = (mount / "cpu" if (mount / "cpu").is_dir() else mount / controllers) if version_1 else mount
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):  # in a container the path may be the host's: only the root is there
            quota = _quota_1(mount / group) if version_1 else _quota_2(mount / group)
            found += [quota] * (quota is not None)
    return [quota for quota in found if quota is not None]


def _quota_2(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_1(group: Path) -> float | None:
    quota, period = (_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def processes_per_machine(started: int, environment: Mapping[str, str] = os.environ) -> int:
    """Processes of the run on this machine.

    Args:
        started: how many the Trainer starts or counts there.
        environment: variables, among which launchers name the number.
    """
    named = [environment[name].split("(")[0] for name in _PER_MACHINE if name in environment]  # SLURM: "4(x2)"
    return max([started, *(int(one) for one in named if one.isdigit())])


def choose_threads(
    step: Callable[[], object] | None = None,
    processes: int = 1,
    threads: int | None = None,
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> Threads:
    """Choose the number of torch's threads and set it, in `OMP_NUM_THREADS` too, so that processes it starts have it.

    Args:
        step: something like a training step, which is measured with one and with as many threads as there are processors;
            without it, nothing is measured.
        processes: of this run on this machine.
        threads: what the user wants, whatever else is found.
        environment: variables, of which `OMP_NUM_THREADS` wins over what is found.
        root: of the file system, to be replaced in tests.

    Example:
        >>> choose_threads(threads=1)
        Threads(number=1, why='--threads says so')
    """
    if threads is not None:
        choice = Threads(threads, "--threads says so")
    elif environment.get(_GIVEN, "").isdigit():
        choice = Threads(int(environment[_GIVEN]), f"{_GIVEN} says so")
    else:
        processors = usable_processors(root)
        if _ONE_TASK in environment:  # SLURM has shared them out: the affinity is this process' alone
            processes = 1
        number = max(1, int(processors) // processes)
        share = f"{processors:g} processors for {processes} process{'es' * (processes > 1)}"
        choice = Threads(number, share) if number == 1 or step is None else _measured(step, number, share)
    number = max(1, choice.number)
    torch.set_num_threads(number)
    os.environ[_GIVEN] = str(number)  # for the processes that are started; Lightning would divide the host's processors
    return choice


def _measured(step: Callable[[], object], number: int, share: str) -> Threads:
    """The faster of one and `number` threads; alternately, so that a short load of others falls on both."""
    seconds: dict[int, list[float]] = {1: [], number: []}
    deadline = time.perf_counter() + _SECONDS
    for _ in range(_STEPS + 1):  # the first of each is a warm-up, unless it is the only one
        for threads in seconds:
            torch.set_num_threads(threads)
            begun = time.perf_counter()
            step()
            seconds[threads].append(time.perf_counter() - begun)
        if time.perf_counter() > deadline:
            break
    one, many = (median(taken[len(taken) > 1 :]) for taken in seconds.values())
    best = number if many * _BETTER < one else 1
    return Threads(best, f"{share}; a step took {1e3 * one:.3g} ms on 1 thread and {1e3 * many:.3g} ms on {number}")
