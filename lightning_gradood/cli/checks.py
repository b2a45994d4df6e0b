"""What is looked at before the first step: files from which `fit` cannot go on, training that keeps no classifier, threads."""

import os
import time
from contextlib import ExitStack, suppress
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_gradood.core import (
    Refusal,
    as_float,
    choose_threads,
    exact_arithmetic,
    frozen_network,
    processes_per_machine,
    refused_as,
)
from lightning_gradood.data import ImageDataModule
from lightning_gradood.networks import read_state_dict
from lightning_gradood.tasks import ClassificationTask


def check_resumable(path: str, model: ClassificationTask) -> None:
    """Refuse a file from which `fit` cannot go on, before the first step.

    Args:
        path: a Lightning checkpoint, which holds the optimizer's state and the epoch beside the weights.
        model: the task that is trained; its network holds the file's weights afterwards.

    Raises:
        Refusal: if it is no checkpoint, would execute code, holds weights only, or those of another architecture.
    """
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


def check_checkpointing(trainer: Any) -> None:
    """Refuse to train for stage two without keeping the classifier.

    Args:
        trainer: Lightning's Trainer.

    Raises:
        Refusal: if it keeps no checkpoints.
    """
    if trainer.checkpoint_callback is None:
        raise Refusal(
            "`trainer.enable_checkpointing` should be on, as stage two probes the best checkpoint. Got false. "
            "Leave it on, or stop after the classifier with --detection null."
        )


_MOST_THREADS = 1024
_STEP_SECONDS = 0.2  # of one measured step; eight are measured


def set_threads(
    trainer: Any, model: ClassificationTask, data: ImageDataModule, threads: int | None, leaving: ExitStack
) -> None:
    """Choose the number of torch's threads where the network runs on the CPU, and say it.

    Args:
        trainer: Lightning's Trainer.
        model: its network is measured, without being changed.
        data: whose normal images it is measured on, by the first process.
        threads: what the user wants.
        leaving: gives `OMP_NUM_THREADS` back what the user had said, so that the next run in this process chooses anew.

    Raises:
        Refusal: `threads` is no number of threads.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise Refusal(
            f"`threads` should be between 1 and {_MOST_THREADS}. Got `threads = {threads}`. Leave it out to let it be measured."
        )
    if trainer.strategy.root_device.type != "cpu":
        return

    leaving.callback(_restore_threads, os.environ.get("OMP_NUM_THREADS"))
    step = _MeasuredStep(model.network, data) if trainer.is_global_zero else None
    rank_zero_info(str(choose_threads(step, processes_per_machine(trainer.num_devices), threads)))


def _restore_threads(given: str | None) -> None:
    if given is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = given


class _MeasuredStep:
    """A forward and, where there is one, a backward pass of a batch; the network is left as it is.

    Args:
        network: images in, logits out.
        data: whose normal images it looks at, at as many in a batch as take `_STEP_SECONDS`.
    """

    def __init__(self, network: nn.Module, data: ImageDataModule) -> None:
        self.network, self.data, self.number = network, data, 0

    def __call__(self) -> None:
        """Make one; the first call finds out on one image how many fit."""
        if not self.number:
            begun = time.perf_counter()
            self._look(1)
            fitting = int(_STEP_SECONDS / (time.perf_counter() - begun))
            self.number = max(1, min(self.data.probe_batch_size, fitting))
        self._look(self.number)

    def _look(self, number: int) -> None:
        source = self.data.normal_source
        images = as_float(source.images(range(min(number, len(source)))))
        with exact_arithmetic(), frozen_network(self.network), torch.enable_grad():
            inputs = images.clone().requires_grad_()
            output = self.network(inputs)
            with suppress(RuntimeError):  # no gradient: attacks and probes that need one refuse it in their own words
                torch.autograd.grad(output.sum(), inputs, allow_unused=True)
