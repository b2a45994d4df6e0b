"""A report in every logger of a Trainer, and the callback that writes and logs it; W&B's part is in `wandb_runs`."""

import sys
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_gradood.core import atomic_write
from lightning_gradood.report.bundle import DetectionReport
from lightning_gradood.report.figures import ReportSettings, as_pngs, draw_figures, write_figures
from lightning_gradood.report.guards import GuardSummary
from lightning_gradood.report.page import PAGE
from lightning_gradood.report.results import write_results
from lightning_gradood.report.run_page import classifier_sentences, run_page
from lightning_gradood.report.tables import console_table, curve_rows, detection_scalars


def log_report(report: DetectionReport, loggers: Sequence[Logger], folder: Path, figures: bool = True) -> None:
    """Log a report and save each logger; call it on rank 0, after the Trainer's own fit has finished."""
    for logger in loggers:
        log_numbers(logger, report)
        log_pictures(logger, report, folder, figures)
        logger.save()


@singledispatch
def log_numbers(logger: Logger, report: DetectionReport) -> None:
    """Log training curves with step = epoch, and final numbers at step 0; overridden for `WandbLogger`."""
    for epoch, values in curve_rows(report.outcomes):
        logger.log_metrics(values, step=epoch)
    logger.log_metrics(detection_scalars(report.outcomes), step=0)


@singledispatch
def log_pictures(logger: Logger, report: DetectionReport, folder: Path, figures: bool) -> None:
    """Log the table and, if asked for, the figures; nothing where a logger takes numbers only."""


@log_pictures.register
def _(logger: TensorBoardLogger, report: DetectionReport, folder: Path, figures: bool) -> None:
    for name, figure in draw_figures(report).items() if figures else ():
        logger.experiment.add_figure(f"figures/{name}", figure, global_step=0)


class ReportCallback(Callback):
    """Write results, figures and the page into the run folder, log them, print the table.

    Called by `Trainer.detect` on rank 0.

    Args:
        figures: whether to draw them, which a sweep may not want; without, the page has none.
        settings: how they are written; loggers get PNG with titles in any case.
    """

    def __init__(self, figures: bool = True, settings: ReportSettings | None = None) -> None:
        self.figures, self.settings = figures, settings
        self._drawn: list[Path] = []

    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        """Write and log results and figures."""
        folder = Path(trainer.default_root_dir)
        write_results(report, folder)
        log_report(report, trainer.loggers, folder, self.figures)
        # After W&B's figures, which are in the same folder.
        self._drawn = write_figures(report, folder, self.settings) if self.figures else []
        about = "".join(f"{sentence}\n" for sentence in classifier_sentences(report.provenance))
        table = ("\n" if about else "") + console_table(report.outcomes, report.failures)
        sys.stdout.write(f"\n{about}{table}\n\nResults and figures: {folder}\n")
        sys.stdout.write(f"All on one page: {folder / PAGE}\n")

    def on_guard_end(self, trainer: pl.Trainer, report: DetectionReport, guard: GuardSummary) -> None:
        """Write the run's page with its guard; called after `on_detect_end`, with the same report."""
        folder = Path(trainer.default_root_dir)
        page = run_page(report, guard, as_pngs(report, self._drawn), folder)
        with atomic_write(folder / PAGE) as file:
            file.write(page.encode())
