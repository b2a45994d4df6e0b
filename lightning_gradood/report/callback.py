"""The callback that writes and logs the report of a `detect` run."""

import sys
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lightning_gradood.report.bundle import DetectionReport
from lightning_gradood.report.figures import write_figures
from lightning_gradood.report.loggers import log_report
from lightning_gradood.report.results import write_results
from lightning_gradood.report.tables import console_table


class ReportCallback(Callback):
    """Write results and figures into the run folder, send them to every logger, print the table.

    Called by `Trainer.detect` on rank zero.

    Args:
        figures: whether to draw them; a sweep may not want to.
    """

    def __init__(self, figures: bool = True) -> None:
        self.figures = figures

    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        """Report to the trainer's run folder and loggers."""
        folder = Path(trainer.default_root_dir)
        write_results(report, folder)
        if self.figures:
            write_figures(report, folder)
        log_report(report, trainer.loggers, folder)
        sys.stdout.write(f"\n{console_table(report.outcomes)}\n\nResults and figures: {folder}\n")
