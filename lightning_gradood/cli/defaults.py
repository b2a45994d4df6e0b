"""Callbacks and places of loggers that every run has unless the user says otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.core import CHECKPOINTS
from lightning_gradood.extraction import ImageProgressBar
from lightning_gradood.report import ReportCallback, offline_without_account


class RunCheckpoint(ModelCheckpoint):
    """Keep the most accurate and the last checkpoint of a run.

    Lightning saves absolute paths. In a folder that was moved or copied it would forget the best accuracy, so that the
    next epoch became the best whatever its accuracy, and stage two would look for the best checkpoint in the old place.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder / CHECKPOINTS, "best", "val/accuracy", mode="max", save_last=True, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning when a fit goes on; paths are those in this folder if the files are here."""
        before, now = str(state_dict["dirpath"]), str(self.dirpath)
        if before != now and Path(now, Path(state_dict["best_model_path"]).name).is_file():
            state_dict = {key: _moved(value, before, now) for key, value in state_dict.items()}
        super().load_state_dict(state_dict)


def _moved(value: Any, before: str, now: str) -> Any:
    if isinstance(value, str) and value.startswith(before):
        return now + value[len(before) :]
    if isinstance(value, dict):
        return {_moved(key, before, now): score for key, score in value.items()}
    return value


def with_default_callbacks(trainer: Any, folder: Path | None, more: Sequence[Callback] = ()) -> list[Callback]:
    """Add reporting, the progress bar, and where a classifier is trained the best and the last checkpoint.

    Args:
        trainer: the Trainer's settings, with the user's callbacks: a list, one, or none.
        folder: of the run where it trains a classifier, else None.
        more: callbacks of the caller.
    """
    given = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks] * bool(trainer.callbacks)
    given = [*given, *more]
    defaults: list[tuple[type[Callback], Callback]] = [(ReportCallback, ReportCallback())]
    if trainer.enable_progress_bar is not False:
        defaults.append((ProgressBar, ImageProgressBar()))
    if folder and trainer.enable_checkpointing is not False:
        defaults.append((ModelCheckpoint, RunCheckpoint(folder)))
    return [*given, *(ours for kind, ours in defaults if not any(isinstance(one, kind) for one in given))]


def place_loggers(loggers: Any, folder: Path | None) -> None:
    """Point loggers that name no place of their own at the run's folder, and W&B offline where there is no account.

    Args:
        loggers: the parsed setting `trainer.logger`, changed in place.
        folder: of the run; None for verbs without one.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if not isinstance(logger, Namespace):
            continue
        if logger.init_args.get("save_dir") in (None, "."):
            logger.init_args.save_dir = str(folder or "runs")
        if logger.class_path.endswith("WandbLogger") and (line := offline_without_account(logger.init_args.save_dir)):
            rank_zero_info(line)
