"""A report in every logger of a Trainer, the callback that writes and logs it, and W&B kept offline without an account."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_gradood.report.bundle import DetectionReport
from lightning_gradood.report.figures import as_pngs, draw_figures, write_figures
from lightning_gradood.report.guards import GuardSummary
from lightning_gradood.report.page import PAGE
from lightning_gradood.report.provenance import accuracy_text
from lightning_gradood.report.results import write_results
from lightning_gradood.report.run_page import write_run_page
from lightning_gradood.report.tables import console_table, curve_rows, detection_scalars, number_table


def offline_without_account(save_dir: str | Path | None = None) -> str | None:
    """Switch W&B to offline if nothing says otherwise and no account is configured.

    Call it before the first W&B run starts, in every process (child processes inherit `WANDB_MODE`). It asks nobody and
    sends nothing: API key and identity token in the environment, W&B's settings files and netrc are looked up where W&B
    itself looks. Nothing changes if a mode is chosen already (`WANDB_MODE`, `wandb offline`), if a run is going on, or
    if the key is malformed (W&B says so itself).

    Args:
        save_dir: the `save_dir` of the `WandbLogger`; by default where W&B writes.

    Returns:
        The line to show to the user, or None if nothing was changed.
    """
    if "WANDB_MODE" in os.environ:
        return None
    # Imported here: importing this room must not import wandb.
    import wandb
    from wandb.sdk import wandb_setup

    if wandb.run is not None or _has_account() or wandb_setup.singleton().settings.mode != "online":
        return None
    # W&B froze its settings when they were read above; a fresh start reads WANDB_MODE. There is no run to end.
    wandb.teardown()
    os.environ["WANDB_MODE"] = "offline"
    folder = Path(save_dir or os.environ.get("WANDB_DIR") or ".") / "wandb"
    return (
        f"Weights & Biases: no account is configured, so the run is logged offline in {folder}/offline-run-*; "
        f"to upload it: `wandb login`, then `wandb sync {folder}/offline-run-*`."
    )


def _has_account() -> bool:
    """Say whether W&B would find credentials, by the lookup that its own command line uses."""
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    try:
        key = settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    except AuthenticationError:
        return True  # there is a key, and W&B's own message says what is wrong with it
    return bool(key or settings.identity_token_file)


EPOCH = "detector/epoch"
"""W&B's x axis of the detectors' training curves."""


def log_report(report: DetectionReport, loggers: Sequence[Logger], folder: Path) -> None:
    """Log a report; call it on rank 0, after the Trainer's own fit has finished.

    Args:
        report: what to log.
        loggers: a Trainer's loggers; may be empty.
        folder: the run's folder; a `WandbLogger` writes the figures to `figures/` in it and uploads them from there.
    """
    for logger in loggers:
        log_numbers(logger, report)
        log_pictures(logger, report, folder)
        logger.save()


@singledispatch
def log_numbers(logger: Logger, report: DetectionReport) -> None:
    """Log training curves with step = epoch, and final numbers at step 0.

    Args:
        logger: any logger; `WandbLogger` has its own way.
        report: whose numbers.
    """
    for epoch, values in curve_rows(report.outcomes):
        logger.log_metrics(values, step=epoch)
    logger.log_metrics(detection_scalars(report.outcomes), step=0)


@log_numbers.register
def _(logger: WandbLogger, report: DetectionReport) -> None:
    # W&B drops rows whose step lies behind the last one, and Lightning's x axis `trainer/global_step` stands where the
    # classifier's fit ended. So no step is passed (rows are appended) and the curves bring their own x axis. It is
    # defined key by key, because which of two globs wins, Lightning's `*` or ours, is not specified. The run itself
    # logs, so that a logger's `prefix` cannot hide the keys that sweeps optimise; W&B copies them into the summary.
    rows = curve_rows(report.outcomes)
    run = logger.experiment
    run.define_metric(EPOCH, hidden=True)
    for key in sorted({key for _, values in rows for key in values}):
        run.define_metric(key, step_metric=EPOCH)
    for epoch, values in rows:
        run.log({EPOCH: epoch, **values})
    run.log(detection_scalars(report.outcomes))


@singledispatch
def log_pictures(logger: Logger, report: DetectionReport, folder: Path) -> None:
    """Log the table and the figures; nothing for a logger that takes numbers only.

    Args:
        logger: any logger.
        report: what to show.
        folder: the run's folder.
    """


@log_pictures.register
def _(logger: WandbLogger, report: DetectionReport, folder: Path) -> None:
    columns, rows = number_table(report.outcomes)
    logger.log_table("results", columns=columns, data=rows)
    # Written anew: figures that already lie there may be those of an earlier report.
    for path in write_figures(report, folder):
        logger.log_image(f"figures/{path.stem}", [str(path)])


@log_pictures.register
def _(logger: TensorBoardLogger, report: DetectionReport, folder: Path) -> None:
    for name, figure in draw_figures(report).items():
        logger.experiment.add_figure(f"figures/{name}", figure, global_step=0)


class ReportCallback(Callback):
    """Write results, figures and the page into the run folder, send them to every logger, print the table.

    Called by `Trainer.detect` on rank zero.

    Args:
        figures: whether to draw them; a sweep may not want to. The page has none then.
    """

    def __init__(self, figures: bool = True) -> None:
        self.figures = figures
        self._drawn: list[Path] = []

    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        """Report to the trainer's run folder and loggers."""
        folder = Path(trainer.default_root_dir)
        write_results(report, folder)
        self._drawn = write_figures(report, folder) if self.figures else []
        log_report(report, trainer.loggers, folder)
        accuracy = classifier_sentence(report.provenance)
        sys.stdout.write(f"\n{accuracy}{console_table(report.outcomes)}\n\nResults and figures: {folder}\n")
        sys.stdout.write(f"All on one page: {folder / PAGE}\n")

    def on_guard_end(self, trainer: pl.Trainer, report: DetectionReport, guard: GuardSummary) -> None:
        """Write the page of the run, which shows the guard too; called after `on_detect_end`, with the same report."""
        write_run_page(report, guard, as_pngs(report, self._drawn), Path(trainer.default_root_dir))


def classifier_sentence(provenance: Mapping[str, Any]) -> str:
    """One line about the classifier's accuracy on the normal images; empty where they have no classes."""
    accuracy = accuracy_text(provenance)
    return f"The classifier is {accuracy}.\n\n" if accuracy else ""
