"""What every run has unless the user says otherwise: callbacks, and a place for its loggers' files."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.callbacks import ImageProgressBar, ReportCallback
from lightning_gradood.cli.checkpointing import RunCheckpoint
from lightning_gradood.report import offline_without_account


def with_standard(trainer: Any, folder: Path | None) -> list[Callback]:
    """Add reporting, the progress bar, and where a classifier is trained the best and the last checkpoint.

    Args:
        trainer: the Trainer's settings, with the user's callbacks: a list, one, or none.
        folder: of the run where it trains a classifier, else None.
    """
    given = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks] * bool(trainer.callbacks)
    standard: list[tuple[type[Callback], Callback]] = [(ReportCallback, ReportCallback())]
    if trainer.enable_progress_bar is not False:
        standard.append((ProgressBar, ImageProgressBar()))
    if folder and trainer.enable_checkpointing is not False:
        standard.append((ModelCheckpoint, RunCheckpoint(folder)))
    return [*given, *(ours for kind, ours in standard if not any(isinstance(one, kind) for one in given))]


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
