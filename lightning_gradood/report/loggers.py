"""A report in every logger of a Trainer: numbers everywhere, table and figures where a logger takes them."""

from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_gradood.report.bundle import DetectionReport
from lightning_gradood.report.figures import draw_figures, write_figures
from lightning_gradood.report.numbers import curve_rows, detection_scalars
from lightning_gradood.report.tables import number_table

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
