"""Callbacks and places of loggers that every run has unless the user says otherwise."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.core import CHECKPOINTS
from lightning_gradood.extraction import ImageProgressBar
from lightning_gradood.report import (
    FINISH_SECONDS,
    PROJECT,
    ReportCallback,
    ReportSettings,
    offline_without_account,
    working_commit,
)
from lightning_gradood.tasks import ResumeCheckpoint

LAST = "last.ckpt"  # in the folder's checkpoints
_REHEARSED = 30  # images of each source under fast_dev_run: enough for every split, few enough for one batch
_TAG = 64  # characters that W&B allows


class RunCheckpoint(ModelCheckpoint):
    """Keep the most accurate checkpoint of a run; `ResumeCheckpoint` keeps the last.

    Lightning saves absolute paths. In a folder that was moved or copied it would forget the best accuracy, so that the
    next epoch became the best whatever its accuracy, and stage two would look for the best checkpoint in the old place.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / CHECKPOINTS, "best", "val/accuracy", mode="max", enable_version_counter=False)

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


def with_default_callbacks(
    trainer: Any, folder: Path | None, more: Sequence[Callback] = (), report: ReportSettings | None = None
) -> list[Callback]:
    """Add reporting, the progress bar, and where a classifier is trained into `folder` the best and the last checkpoint."""
    given = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks] * bool(trainer.callbacks)
    given = [*given, *more]
    defaults: list[tuple[type[Callback], Callback]] = [(ReportCallback, ReportCallback(settings=report))]
    if trainer.enable_progress_bar is not False:
        defaults.append((ProgressBar, ImageProgressBar()))
    if folder and trainer.enable_checkpointing is not False:
        defaults.append((ModelCheckpoint, RunCheckpoint(folder)))
        given = [ResumeCheckpoint(folder / CHECKPOINTS / LAST), *given]
    return [*given, *(ours for kind, ours in defaults if not any(isinstance(one, kind) for one in given))]


@contextmanager
def loggers_by_name() -> Iterator[None]:
    """Let `--trainer.logger CSVLogger` stand alone: the parser asks for no `save_dir`, which `place_loggers` fills in."""
    before = {kind: kind.__init__.__defaults__ for kind in (CSVLogger, TensorBoardLogger)}
    try:
        for kind, values in before.items():
            kind.__init__.__defaults__ = (None, *(values or ()))  # `save_dir` is the last parameter that has no default
        yield
    finally:
        for kind, values in before.items():
            kind.__init__.__defaults__ = values


@dataclass(frozen=True)
class RunIdentity:
    """How W&B knows a run.

    Args:
        name: the run folder, from `runs/` on.
        group: the experiment.
        job_type: the verb.
        tags: network, normal images, label designs, commit of the code that called; each at most 64 characters.
    """

    name: str | None
    group: str
    job_type: str
    tags: list[str]


def run_identity(configuration: Mapping[str, Any], verb: str, experiment: str, folder: Path | None) -> RunIdentity:
    """Name a run by what it is about; verbs without a folder have no name."""
    network = configuration["model"].get("init_args", {}).get("network")
    normal = configuration["data"].get("init_args", {}).get("normal")
    designs = (configuration.get("detection") or {}).get("label_designs") or []
    found = [_innermost(network), _innermost(normal), *map(_innermost, designs), working_commit()]
    parts = folder.parts[1:] if folder and folder.parts[:1] == ("runs",) else folder.parts if folder else ()
    return RunIdentity("/".join(parts) or None, experiment, verb, [tag[:_TAG] for tag in dict.fromkeys(found) if tag])


def _innermost(part: Any) -> str:
    """Class name of the data set in a source, or of the part itself; of a folder the last two names of its path."""
    if isinstance(part, str):
        return "/".join(Path(part).parts[-2:])
    if not isinstance(part, Mapping):
        return ""
    inner = (part.get("init_args") or {}).get("dataset")
    return _innermost(inner) if inner else str(part.get("class_path", "")).rpartition(".")[2]


def place_loggers(loggers: Any, folder: Path | None, identity: Callable[[], RunIdentity]) -> None:
    """Point loggers that name no place of their own at the run's folder, name W&B's runs, and keep W&B offline without account.

    The parsed setting `trainer.logger` is changed in place; `identity` is asked only where there is a `WandbLogger`.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if not isinstance(logger, Namespace):
            continue
        given: Any = logger.get("init_args") or {}  # a logger may take no arguments
        if "save_dir" in given and given["save_dir"] in (None, "."):
            given["save_dir"] = str(folder or "runs")
        if logger.class_path.endswith("WandbLogger"):
            os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))  # W&B itself would wait for hours
            defaults = {"project": os.environ.get("WANDB_PROJECT", PROJECT), **asdict(identity())}
            for key, value in defaults.items():
                if given.get(key) is None:
                    given[key] = value
            if line := offline_without_account(given["save_dir"]):
                rank_zero_info(line)


def rehearse(configuration: Namespace) -> None:
    """Let `--trainer.fast_dev_run true` walk stage two as well, on a few images and with records of its own; in place."""
    given = configuration.data.init_args
    given.limits.images, given.limits.sources = min(given.limits.images or _REHEARSED, _REHEARSED), None
    given.probe_batch_size = max(given.probe_batch_size, _REHEARSED)  # Lightning takes one batch of each source
    configuration.detection.false_positive_rate = 0.5  # few images keep no smaller one
    configuration.cache_dir = str(Path(configuration.cache_dir) / "rehearsal")
    rank_zero_info(
        f"fast_dev_run: every stage runs on at most {given.limits.images} images of each source. Its numbers mean nothing."
    )
