"""A report in every logger of a Trainer, and the callback that writes and logs it; `wandb_runs` has what is W&B's."""

import sys
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_gradood.report.bundle import DetectionReport
from lightning_gradood.report.figures import ReportSettings, as_pngs, draw_figures, write_figures
from lightning_gradood.report.guards import GuardSummary
from lightning_gradood.report.page import PAGE
from lightning_gradood.report.provenance import accuracy_sentence, accuracy_warning
from lightning_gradood.report.results import write_results
from lightning_gradood.report.run_page import write_run_page
from lightning_gradood.report.tables import console_table, curve_rows, detection_scalars


def log_report(report: DetectionReport, loggers: Sequence[Logger], folder: Path, figures: bool = True) -> None:
    """Log a report; call it on rank 0, after the Trainer's own fit has finished.

    Args:
        report: what to log.
        loggers: a Trainer's loggers; may be empty.
        folder: the run's folder; a `WandbLogger` writes the figures to `figures/` in it and uploads them from there.
        figures: whether figures are drawn and logged.
    """
    for logger in loggers:
        log_numbers(logger, report)
        log_pictures(logger, report, folder, figures)
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


@singledispatch
def log_pictures(logger: Logger, report: DetectionReport, folder: Path, figures: bool) -> None:
    """Log the table and the figures; nothing for a logger that takes numbers only.

    Args:
        logger: any logger.
        report: what to show.
        folder: the run's folder.
        figures: whether figures are wanted beside the table.
    """


@log_pictures.register
def _(logger: TensorBoardLogger, report: DetectionReport, folder: Path, figures: bool) -> None:
    for name, figure in draw_figures(report).items() if figures else ():
        logger.experiment.add_figure(f"figures/{name}", figure, global_step=0)


class ReportCallback(Callback):
    """Write results, figures and the page into the run folder, send them to every logger, print the table.

    Called by `Trainer.detect` on rank zero.

    Args:
        figures: whether to draw them; a sweep may not want to. The page has none then.
        settings: how they are written; loggers get PNG with titles in any case.
    """

    def __init__(self, figures: bool = True, settings: ReportSettings | None = None) -> None:
        self.figures, self.settings = figures, settings
        self._drawn: list[Path] = []

    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        """Report to the trainer's run folder and loggers."""
        folder = Path(trainer.default_root_dir)
        write_results(report, folder)
        log_report(report, trainer.loggers, folder, self.figures)
        # after W&B's, which lie in the same folder
        self._drawn = write_figures(report, folder, self.settings) if self.figures else []
        accuracy = classifier_sentence(report.provenance)
        sys.stdout.write(
            f"\n{accuracy}{console_table(report.outcomes, report.failures)}\n\nResults and figures: {folder}\n"
        )
        sys.stdout.write(f"All on one page: {folder / PAGE}\n")

    def on_guard_end(self, trainer: pl.Trainer, report: DetectionReport, guard: GuardSummary) -> None:
        """Write the page of the run, which shows the guard too; called after `on_detect_end`, with the same report."""
        write_run_page(report, guard, as_pngs(report, self._drawn), Path(trainer.default_root_dir))


def classifier_sentence(provenance: Mapping[str, Any]) -> str:
    """One line about the classifier's accuracy on the normal images, and a warning where it is low."""
    if "classifier" not in provenance:
        return ""
    warning = accuracy_warning(provenance)
    return f"{accuracy_sentence(provenance)}\n{f'Warning: {warning}' if warning else ''}".rstrip() + "\n\n"
