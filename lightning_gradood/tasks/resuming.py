"""Going on with training exactly: a checkpoint after every epoch that holds all that the next epoch depends on.

Lightning's `save_last` keeps the last *improving* epoch's, and no random generators, which order and augment images.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_gradood.core import atomic_write, gathered, generator_states, restore_generators


class ResumeCheckpoint(Callback):
    """Keep one checkpoint from which `fit` goes on as if it had never stopped.

    It is written whole between two epochs, when the last one has ended completely, and when training ends: a Lightning
    checkpoint that also holds the random generators of every process. With as many processes as before, on a CPU, the
    weights of a `fit` that went on equal those of an undisturbed one to the last bit. Name it before callbacks that
    count epochs, so that each is counted once.

    Args:
        path: of the checkpoint; give it as `ckpt_path` to go on.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._start = Path(path), 0
        self._saving: dict[str, Any] = {}
        self._found: dict[str, Any] = {}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not atomic where /tmp is another disk
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._saving  # empty in the checkpoints of others

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._found = state_dict

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._saving and not self._saving["ended"]:  # the checkpoint ends with the last epoch, not in the next
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts["ready"] -= 1

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = trainer.global_step
        if self._found:
            trainer.should_stop = trainer.should_stop or self._found["stopped_early"]
            if not (trainer.should_stop or 0 <= (trainer.max_epochs or 0) <= trainer.current_epoch):
                rank_zero_info(f"Training goes on after {trainer.current_epoch} of {trainer.max_epochs} epochs.")

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._found:
            torch.set_num_threads(self._found["threads"])  # sums of floats depend on their number
            # as in an epoch that follows another: Lightning would keep the iterator that it made before
            for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
                loop._restarting = loop._resuming_from_checkpoint = False
            generators, self._found = self._found["generators"], {}
            if len(generators) == trainer.world_size:
                restore_generators(generators[trainer.global_rank])
            else:
                rank_zero_info(
                    f"Training began on {len(generators)} processes and goes on with {trainer.world_size}: it draws other "
                    "random numbers, and ends with other weights, than on as many as before."
                )
        elif trainer.current_epoch > 0:
            self._save(trainer, ended=False)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self._start:  # a fit that had nothing left to train leaves the file as it is
            self._save(trainer, ended=True)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._found and self._found["ended"]:
            number = trainer.current_epoch
            rank_zero_info(f"Training had ended after {number} epochs already: nothing is trained again.")
        self._found = {}

    def _save(self, trainer: pl.Trainer, ended: bool) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        early = trainer.should_stop and not any(isinstance(one, Timer) for one in trainer.callbacks)  # type: ignore[attr-defined]
        about = {"ended": ended, "stopped_early": early, "threads": torch.get_num_threads()}
        self._saving = about | {"generators": gathered(generator_states())}
        try:
            trainer.save_checkpoint(self.path)
        finally:
            self._saving = {}


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, also where temporary files lie on another disk."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            with atomic_write(Path(path)) as file:
                torch.save(checkpoint, file)
