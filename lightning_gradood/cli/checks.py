"""What is looked at before the first step: files from which `fit` cannot go on, and threads."""

import os
from contextlib import ExitStack
from typing import Any

import torch
from joblib import cpu_count
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.core import Refusal, refused_as
from lightning_gradood.networks import read_state_dict
from lightning_gradood.tasks import ClassificationTask


def check_resumable(path: str, model: ClassificationTask) -> None:
    """Refuse a file from which `fit` cannot go on; else `model` holds its weights afterwards."""
    with refused_as(path="ckpt_path"):
        read_state_dict(path)  # says what is wrong with the file, and never executes code
    content: Any = {} if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    if "pytorch-lightning_version" not in content:
        raise Refusal(
            f"`ckpt_path` should be a Lightning checkpoint from which `fit` can go on. Got `ckpt_path = {path}`, which "
            f"holds weights only. To start from these weights use --model.weights {path}."
        )
    with refused_as(path="ckpt_path"):
        model.load_trained_weights(path)


_MOST_THREADS = 1024
_THREADS = "OMP_NUM_THREADS"


def set_threads(trainer: Any, threads: int | None, leaving: ExitStack) -> None:
    """Set the number of torch's threads where the network runs on the CPU, and say it.

    Without `threads` it is `OMP_NUM_THREADS`, or else this process' share of the processors that affinity and control
    group allow. `leaving` gives `OMP_NUM_THREADS` back what the user had said.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise Refusal(
            f"`threads` should be between 1 and {_MOST_THREADS}. Got `threads = {threads}`. Leave it out to use all processors."
        )
    if trainer.strategy.root_device.type != "cpu":
        return
    given = os.environ.get(_THREADS)
    if threads is None and given is not None and given.isdigit():
        threads = int(given)
    # SLURM has shared the processors out: the affinity is this process' alone
    processes = 1 if "SLURM_CPUS_PER_TASK" in os.environ else trainer.num_devices
    threads = max(1, cpu_count() // processes if threads is None else threads)
    torch.set_num_threads(threads)
    os.environ[_THREADS] = str(threads)  # for the processes that Lightning starts; it would set its own number
    if given is None:
        leaving.callback(os.environ.pop, _THREADS)
    else:
        leaving.callback(os.environ.__setitem__, _THREADS, given)
    rank_zero_info(f"Computing on {threads} thread{'s' * (threads > 1)}.")
