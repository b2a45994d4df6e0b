"""W&B runs: offline without an account; summary numbers, a table, figures, artifacts, alerts.

Functions import W&B themselves: importing this room must not.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger

from lightning_gradood.core import Refusal, say
from lightning_gradood.guard import read_description
from lightning_gradood.records import NORMAL
from lightning_gradood.report.bundle import DetectionReport, by_detector
from lightning_gradood.report.figures import write_figures
from lightning_gradood.report.guards import GuardSummary
from lightning_gradood.report.loggers import log_numbers, log_pictures
from lightning_gradood.report.page import PAGE
from lightning_gradood.report.provenance import accuracy_warning
from lightning_gradood.report.results import results_table
from lightning_gradood.report.tables import curve_rows, detection_scalars

PROJECT = "lightning_gradood"
"""W&B's project where neither the logger nor `WANDB_PROJECT` names one."""

EPOCH = "detector/epoch"  # x axis of the detectors' training curves

_BEST = {"loss": "min", "auroc": "max"}  # which value of a curve W&B keeps in its summary
Artifacts = Literal["all", "guard", "none"]
_RESULTS = (PAGE, "results.json", "results.csv", "results.parquet", "scores.parquet", "splits.json", "config.yaml")


def offline_without_account(save_dir: str | Path | None = None) -> str | None:
    """Switch W&B to offline if no mode is chosen and no account is configured; returns the line for the user, or None.

    Call it before the first W&B run starts, in every process (child processes inherit `WANDB_MODE`). It neither prompts
    nor connects: credentials are looked up where W&B itself looks. Nothing changes if a mode is chosen already
    (`WANDB_MODE`, `wandb offline`), a run is active, or the key is malformed (which W&B reports).
    """
    if "WANDB_MODE" in os.environ:
        return None
    import wandb
    from wandb.sdk import wandb_setup

    if wandb.run is not None or has_wandb_account() or wandb_setup.singleton().settings.mode != "online":
        return None
    # W&B froze its settings when they were read above; a fresh start reads WANDB_MODE. There is no run to end.
    wandb.teardown()
    os.environ["WANDB_MODE"] = "offline"
    folder = Path(save_dir or os.environ.get("WANDB_DIR") or ".") / "wandb"
    return (
        f"Weights & Biases: no account is configured, so the run is logged offline in {folder}/offline-run-*; "
        f"to upload it: `wandb login`, then `wandb sync {folder}/offline-run-*`."
    )


def has_wandb_account() -> bool:
    """Whether W&B would find credentials, by the lookup of its own command line."""
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    try:
        key = settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    except AuthenticationError:
        return True  # a malformed key, which W&B reports itself
    return bool(key or settings.identity_token_file)


FINISH_SECONDS = 120
"""How long a run that has ended waits at most until W&B has got all of it; `WANDB_FINISH_TIMEOUT` says otherwise."""

_CONNECTION = ("wandb", "requests", "urllib3")  # packages whose exceptions say that W&B could not be reached


@contextmanager
def _unless_lost(run: Any) -> Iterator[None]:
    """Continue without W&B where it cannot be reached; the data stay on disk for `wandb sync`."""
    try:
        yield
    except Exception as error:
        lost = type(error).__module__.partition(".")[0] in _CONNECTION or isinstance(
            error, ConnectionError | TimeoutError
        )
        if not lost:
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        folder = Path(run.dir).parent
        say(f"W&B could not be reached: {reason}. The run goes on. `wandb sync {folder}` sends what W&B has not got.")


@log_numbers.register
def _(logger: WandbLogger, report: DetectionReport) -> None:
    # W&B drops rows whose step lies behind the last one, and Lightning's x axis `trainer/global_step` stands where the
    # classifier's fit ended. So no step is passed (rows are appended) and the curves bring their own x axis. It is
    # defined key by key, because which of two globs wins, Lightning's `*` or ours, is not specified. The run itself
    # logs, so that a logger's `prefix` cannot hide the keys that sweeps optimise. Final numbers go into the summary,
    # which sweeps, tables of runs and scatter plots read.
    rows = curve_rows(report.outcomes)
    run = logger.experiment
    run.define_metric(EPOCH, hidden=True)
    for key in sorted({key for _, values in rows for key in values}):
        run.define_metric(key, step_metric=EPOCH, summary=_BEST.get(key.rpartition("/")[2], "last"))
    with _unless_lost(run):
        for epoch, values in rows:
            run.log({EPOCH: epoch, **values})
        run.summary.update(detection_scalars(report.outcomes) | _about_the_run(report))


def _about_the_run(report: DetectionReport) -> dict[str, float]:
    numbers = {
        f"cost/fit_seconds/{label}": sum(one.seconds for one in group) / len(group)
        for label, group in by_detector(report.outcomes).items()
    }
    if "seconds" in report.provenance:
        numbers["cost/detect_seconds"] = report.provenance["seconds"]
    if "accuracy" in report.provenance.get("classifier", {}):
        numbers["classifier/accuracy"] = report.provenance["classifier"]["accuracy"]
    return numbers


@log_pictures.register
def _(logger: WandbLogger, report: DetectionReport, folder: Path, figures: bool) -> None:
    table = results_table(report.outcomes)
    rows = [list(row) for row in zip(*table.values(), strict=True)]
    known = [row for row in rows if row[list(table).index("value")] is not None]
    # Written anew: figures that already lie there may be those of an earlier report.
    paths = write_figures(report, folder) if figures else []
    with _unless_lost(logger.experiment):
        logger.log_table("results", columns=list(table), data=known)
        for path in paths:
            logger.log_image(f"figures/{path.stem}", [str(path)])


@dataclass(frozen=True)
class LoggingSettings:
    """What W&B keeps of a run beside its numbers.

    Args:
        artifacts: `all`, the guard and the result files with the figures; `guard`, the guard alone; `none`.
    """

    artifacts: Artifacts = "all"

    def __post_init__(self) -> None:
        if self.artifacts not in get_args(Artifacts):
            raise Refusal(
                f"`logging.artifacts` should be one of {', '.join(get_args(Artifacts))}. Got "
                f"`logging.artifacts = {self.artifacts}`."
            )


class WandbCallback(Callback):
    """Give W&B a run's alerts, and the artifacts `results-<experiment>` and `guard-<experiment>` as `latest`.

    A guard with a higher mean AUROC on `val` than the one with the alias `best` takes over that alias, except in an
    offline run. Called by `Trainer.detect` on rank 0.
    """

    def __init__(self, settings: LoggingSettings) -> None:
        self.settings = settings

    def on_detect_end(self, trainer: pl.Trainer, report: DetectionReport) -> None:
        """Alert where the classifier is hardly better than chance, and where detectors have failed."""
        if text := accuracy_warning(report.provenance):
            alert(trainer.loggers, f"{report.experiment}: the classifier is hardly better than chance", text)
        if report.failures:
            text = " ".join(f"`{one.detector}` on `{one.source}`: {one.reason}" for one in report.failures)
            alert(trainer.loggers, f"{report.experiment}: detectors have failed", text[:500])

    def on_guard_end(self, trainer: pl.Trainer, report: DetectionReport, guard: GuardSummary) -> None:
        """Log the content of the run folder to every W&B logger."""
        folder = Path(trainer.default_root_dir)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                with _unless_lost(logger.experiment):
                    if (folder / "guard" / "guard.json").is_file():
                        log_guard(logger, folder, files=self.settings.artifacts != "none")
                    if self.settings.artifacts == "all":
                        log_result_files(logger, folder)


def log_guard(logger: WandbLogger, folder: Path, files: bool) -> None:
    """Put a guard's numbers into the summary and, if `files`, its folder into an artifact."""
    import wandb

    run, about = logger.experiment, read_description(folder / "guard")
    aurocs = [numbers["val/auroc"] for numbers in about.metrics.values() if "val/auroc" in numbers]
    facts = {
        "mean_val_auroc": sum(aurocs) / len(aurocs),
        "flagged": about.metrics[NORMAL]["test/flagged"],
        "false_positive_rate": about.false_positive_rate,
    }
    run.summary.update({f"guard/{name}": value for name, value in facts.items()})
    if not files:
        return
    described = facts | {"detector": about.detector_name, "run_folder": str(folder)}
    artifact = wandb.Artifact(_artifact_name("guard", run, folder), type="guard", metadata=described)
    artifact.add_dir(str(folder / "guard"), policy="immutable")  # not copied: it may be large, and no run changes it
    better = _beats_the_best(run, artifact.name, facts["mean_val_auroc"])
    run.log_artifact(artifact, aliases=["latest", *(["best"] if better else [])])


def log_result_files(logger: WandbLogger, folder: Path) -> None:
    """Log tables, scores, splits, configuration, page and figures of a run as one artifact."""
    import wandb

    run = logger.experiment
    artifact = wandb.Artifact(_artifact_name("results", run, folder), type="results")
    for name in _RESULTS:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name))
    if (folder / "figures").is_dir():
        artifact.add_dir(str(folder / "figures"), name="figures")
    run.log_artifact(artifact, aliases=["latest"])


def _artifact_name(kind: str, run: Any, folder: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{kind}-{run.group or folder.name}")


def _beats_the_best(run: Any, name: str, auroc: float) -> bool:
    """Whether no artifact of that name has the alias `best` yet, or one of a lower mean AUROC."""
    import wandb

    if run.offline:
        return False
    try:
        before = wandb.Api().artifact(f"{run.entity}/{run.project}/{name}:best")
    except wandb.errors.CommError as error:
        return "not found" in str(error)  # else W&B was not reachable, and the alias is left alone
    return bool(auroc > before.metadata.get("mean_val_auroc", float("-inf")))


def alert(loggers: Sequence[Logger], title: str, text: str) -> None:
    """Send an alert through W&B; other loggers have none."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with _unless_lost(logger.experiment):
                logger.experiment.alert(title=title, text=text, level="WARN")
