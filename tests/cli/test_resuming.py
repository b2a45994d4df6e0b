"""A `fit` that was killed and goes on ends as one that was left alone; one that had ended is not trained again."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from programs import run_program
from tiny import FILE, called, numbers, snapshot, table

from lightning_gradood.cli import main
from lightning_gradood.tasks import ClassificationTask

DYING = """
import os, random, signal
import numpy as np
import torch
from lightning_gradood.networks import CifarResNet
from lightning_gradood.tasks import ClassificationTask

class Noise(torch.nn.Module):
    def forward(self, images):  # every global generator takes part
        scale = 0.1 * random.random() + 0.1 * np.random.rand()
        return (images + scale * torch.randn(images.shape)).clamp(0, 1)

class Dying(CifarResNet):
    steps = 0
    def forward(self, images):
        if self.training and len(images) > 3:  # not where the network is tried on two images
            Dying.steps += 1
            if Dying.steps == int(os.environ.get("DIES_IN_STEP", 0)):
                os.kill(os.getpid(), signal.SIGKILL)
            if Dying.steps == int(os.environ.get("PREEMPTED_IN_STEP", 0)) and os.environ["SLURM_PROCID"] == "0":
                os.kill(os.getppid(), signal.SIGUSR1)
        return torch.nn.functional.dropout(super().forward(images), 0.2, self.training)

class Task(ClassificationTask):  # its schedule steps once an epoch
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}
"""
NETWORK = {"class_path": "dying.Dying", "init_args": {"blocks_per_stage": 1, "num_classes": 3}}
COMMAND = ["fit", *FILE, "--model.network", str(NETWORK), "--data.augment", "dying.Noise", "--data.batch_size", "20",
           "--model.scheduler", "OneCycle", "--trainer.log_every_n_steps", "1", "--trainer.limit_train_batches", "4",
           "--trainer.max_epochs", "4"]  # fmt: skip
BARE = [*COMMAND, "--detection", "null", "--run_dir"]


@pytest.fixture(autouse=True)
def network(module):
    """A network, an augmentation and a schedule that use everything which has to be restored."""
    module("dying", DYING)


def assert_equal_runs(one, other):
    """Equal to the last bit: all weights and buffers."""
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        mine, theirs = (torch.load(Path(run, name), weights_only=True)["state_dict"] for run in (one, other))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), f"{name} differs"


@pytest.mark.slow
def test_a_fit_that_was_killed_twice_ends_as_one_that_was_left_alone(capsys, caplog):
    printed = table(called([*COMMAND, "--run_dir", "alone"], capsys)[1])
    steps = torch.load("alone/checkpoints/last.ckpt", weights_only=True)["global_step"] // 4
    assert steps >= 2
    dying = [sys.executable, "-m", "lightning_gradood", *COMMAND, "--run_dir", "killed"]
    for step in (steps + 2, steps + 1):  # in the middle of the second epoch, and in the first step of the third
        ended = run_program(dying, environment=os.environ | {"DIES_IN_STEP": str(step)})
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert "Training goes on after 1 of 4 epochs." in ended.stderr
    assert table(called([*COMMAND, "--run_dir", "killed", "--cache_dir", "new"], capsys)[1]) == printed
    assert "Training goes on after 2 of 4 epochs." in caplog.text
    assert numbers("killed") == numbers("alone")
    assert_equal_runs("killed", "alone")


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.max_steps", "14", "--trainer.accumulate_grad_batches", "2"],
        ["--model.optimizer", "{class_path: torch.optim.Adam, init_args: {lr: 0.0}}"],  # no epoch is an improvement
        ["--model.class_path", "dying.Task", "--trainer.check_val_every_n_epoch", "2"],
    ],
    ids=["steps_accumulated", "no_improvement", "epochs_validated_rarely"],
)
def test_a_fit_goes_on_exactly_whatever_ended_an_epoch(flags, monkeypatch):
    def stop(task, *_):
        if task.current_epoch == 2:
            raise KeyError

    main([*BARE, "alone", *flags])
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_batch_end", stop)
        with pytest.raises(KeyError):
            main([*BARE, "stopped", *flags])
    main([*BARE, "stopped", *flags])
    assert_equal_runs("stopped", "alone")


def test_a_fit_that_had_ended_is_not_trained_again_and_says_so(caplog):
    early = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss",
             "--trainer.callbacks.patience", "0", "--trainer.callbacks.min_delta", "9"]  # fmt: skip
    for folder, flags, epochs in (("early", early, 2), ("done", [], 3)):
        command = [*BARE, folder, "--trainer.max_epochs", "3", *flags]
        main(command)
        before = snapshot(Path(folder, "checkpoints"))
        main(command)
        assert f"Training had ended after {epochs} epochs already: nothing is trained again." in caplog.text
        assert snapshot(Path(folder, "checkpoints")) == before
