"""Telling what a run has found: the callbacks that `detect` calls, what loggers get, and W&B's dashboard of their keys.

W&B is imported in functions alone: importing this room must not.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from lightning_gradood.core import CONFIG, Refusal, atomic_write, first_line, going_on_without, say
from lightning_gradood.records import NORMAL, read_rows
from lightning_gradood.report.figures import ReportSettings, draw_figures, drawings
from lightning_gradood.report.pages import accuracy_warning, findings, printed, run_page
from lightning_gradood.report.run import CURVES, PAGE, PROVENANCE, RESULTS, SCORES, SPLITS, Run, curve_rows
from lightning_gradood.report.tables import by_detector, console_table, detection_scalars, matrices

PROJECT = "lightning_gradood"  # W&B's, where neither the logger nor `WANDB_PROJECT` names one
FINISH_SECONDS = 120  # that an ended run waits at most for W&B to get all of it, unless `WANDB_FINISH_TIMEOUT` is set
EPOCH = "detector/epoch"  # x axis of the detectors' training curves
_PARAMETERS = ["detection.mlp.width", "detection.mlp.learning_rate", "detection.mlp.weight_decay", "detection.seed"]
_GUARD = ("mean_val_auroc", "flagged", "false_positive_rate")  # behind `guard/`, in the summary
_BEST = {"loss": "min", "auroc": "max"}  # which value of a curve W&B keeps in its summary
_FILES = (PAGE, "results.csv", RESULTS, SCORES, SPLITS, CURVES, PROVENANCE, CONFIG, "figures")


class ReportCallback(Callback):
    """Print the table of a run, write its figures and page, and log them, once all else is in the run folder.

    Args:
        figures: whether to draw them, which a sweep may not want; without, the page has none.
        settings: how they are written; loggers get PNG with titles in any case.
    """

    def __init__(self, figures: bool = True, settings: ReportSettings | None = None) -> None:
        self.figures, self.settings = figures, settings or ReportSettings()

    def on_detect_end(self, trainer: pl.Trainer, run: Run) -> None:
        """Tell what the run has found."""
        about = "".join(f"{sentence}\n" for sentence in findings(run))
        table = console_table(*printed(run), matrices(run.outcomes), self.settings.table == "full")
        table = ("\n" if about else "") + table
        sys.stdout.write(f"\n{about}{table}\n\nResults and figures: {run.folder}\n")
        pictures = draw_figures(drawings(run), self.settings, run.folder / "figures") if self.figures else {}
        with going_on_without("the page"):
            with atomic_write(run.folder / PAGE) as file:
                file.write(run_page(run, pictures).encode())
            sys.stdout.write(f"All on one page: {run.folder / PAGE}\n")
        log_run(run, trainer.loggers, pictures)


def tell(folder: Path, trainer: pl.Trainer) -> None:
    """Read a run folder and call the callbacks that tell of it, W&B's last; what fails is left out with a warning."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    with going_on_without("the report"):
        run = Run.read(folder)
        for kind in (ReportCallback, WandbCallback):
            for callback in [one for one in callbacks if isinstance(one, kind)][:1]:
                with going_on_without(f"what {kind.__name__} tells"):
                    callback.on_detect_end(trainer, run)


def log_run(run: Run, loggers: Iterable[Logger], pictures: Mapping[str, bytes]) -> None:
    """Log a run and save each logger, after the Trainer's own fit; `pictures`, PNG by name, go to W&B and TensorBoard."""
    images = {f"figures/{name}": Image.open(BytesIO(png)) for name, png in pictures.items()}
    for logger in loggers:
        with going_on_without(f"what {type(logger).__name__} logs"):
            if isinstance(logger, WandbLogger):
                _log_to_wandb(run, logger, images)
            else:
                for epoch, values in curve_rows(run.outcomes):
                    logger.log_metrics(values, step=epoch)
                logger.log_metrics(detection_scalars(run.outcomes, run.groups), step=0)
            if isinstance(logger, TensorBoardLogger):
                for name, image in images.items():
                    logger.experiment.add_image(name, np.array(image), dataformats="HWC")
            logger.save()


def _log_to_wandb(run: Run, logger: WandbLogger, images: Mapping[str, Image.Image]) -> None:
    # W&B drops rows whose step lies behind the last one, and Lightning's x axis `trainer/global_step` stands where the
    # classifier's fit ended. So no step is passed (rows are appended) and the curves bring their own x axis. It is
    # defined key by key, because which of two globs wins, Lightning's `*` or ours, is not specified. The run itself
    # logs, so that a logger's `prefix` cannot hide the keys that sweeps optimise. Final numbers go into the summary,
    # which sweeps, tables of runs and scatter plots read.
    rows, sent, about = curve_rows(run.outcomes), logger.experiment, run.provenance
    sent.define_metric(EPOCH, hidden=True)
    for key in sorted({key for _, values in rows for key in values}):
        sent.define_metric(key, step_metric=EPOCH, summary=_BEST.get(key.rpartition("/")[2], "last"))
    table = read_rows(run.folder / RESULTS)
    known = [list(row) for row in zip(*table.values(), strict=True) if row[list(table).index("value")] is not None]
    final = {
        "classifier/accuracy": about.get("classifier", {}).get("accuracy"),
        "cost/detect_seconds": about.get("seconds"),
    }
    final |= detection_scalars(run.outcomes, run.groups)
    for name, group in by_detector(run.outcomes).items():
        final[f"cost/fit_seconds/{name}"] = sum(one.seconds for one in group) / len(group)
    with _unless_lost(sent):
        for epoch, values in rows:
            sent.log({EPOCH: epoch, **values})
        sent.summary.update({name: number for name, number in final.items() if number is not None})
        logger.log_table("results", columns=list(table), data=known)
        for name, image in images.items():
            logger.log_image(name, [image])


@dataclass(frozen=True)
class LoggingSettings:
    """What W&B keeps of a run beside its numbers.

    Args:
        artifacts: `all`, the guard and the result files with the figures; `guard`, the guard alone; `none`.
    """

    artifacts: Literal["all", "guard", "none"] = "all"


class WandbCallback(Callback):
    """Give W&B a run's alerts, and the artifacts `results-<experiment>` and `guard-<experiment>` as `latest`.

    A guard with a higher mean AUROC on `val` than the one with the alias `best` takes it over, except in an offline run.
    """

    def __init__(self, settings: LoggingSettings) -> None:
        self.settings = settings

    def on_detect_end(self, trainer: pl.Trainer, run: Run) -> None:
        """Alert of a classifier hardly better than chance, and log the run folder."""
        if text := accuracy_warning(run.provenance):
            alert(trainer.loggers, f"{run.experiment}: the classifier is hardly better than chance", text)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                with _unless_lost(logger.experiment):
                    self._log_folder(logger.experiment, run)

    def _log_folder(self, sent: Any, run: Run) -> None:
        import wandb

        name, guard = re.sub(r"[^\w.-]+", "-", sent.group or run.folder.name), run.guard
        if guard.metrics:
            aurocs = [numbers["val/auroc"] for numbers in guard.metrics.values() if "val/auroc" in numbers]
            mean, flagged = sum(aurocs) / max(len(aurocs), 1), guard.metrics[NORMAL]["test/flagged"]
            facts = dict(zip(_GUARD, (mean, flagged, guard.false_positive_rate), strict=True))
            sent.summary.update({f"guard/{key}": value for key, value in facts.items()})
        if guard.metrics and guard.saved and self.settings.artifacts != "none":
            described = facts | {"detector": guard.detector, "run_folder": str(run.folder)}
            artifact = wandb.Artifact(f"guard-{name}", type="guard", metadata=described)
            artifact.add_dir(str(run.folder / "guard"), policy="immutable")  # not copied: no run changes it
            best = ["best"] * _beats_the_best(sent, artifact.name, mean)
            sent.log_artifact(artifact, aliases=["latest", *best])
        if self.settings.artifacts == "all":
            artifact = wandb.Artifact(f"results-{name}", type="results")
            for path in map(run.folder.joinpath, _FILES):
                if path.is_dir():
                    artifact.add_dir(str(path), name=path.name)
                elif path.is_file():
                    artifact.add_file(str(path))
            sent.log_artifact(artifact, aliases=["latest"])


def _beats_the_best(sent: Any, name: str, auroc: float) -> bool:
    """Whether no artifact of that name has the alias `best` yet, or one of a lower mean AUROC."""
    import wandb

    if sent.offline:
        return False
    try:
        before = wandb.Api().artifact(f"{sent.entity}/{sent.project}/{name}:best")
    except wandb.errors.CommError as error:
        return "not found" in str(error)  # else W&B was not reachable, and the alias is left alone
    return bool(auroc > before.metadata.get("mean_val_auroc", float("-inf")))


def alert(loggers: Sequence[Logger], title: str, text: str) -> None:
    """Send an alert through W&B; other loggers have none."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with _unless_lost(logger.experiment):
                logger.experiment.alert(title=title, text=text, level="WARN")


def offline_without_account(save_dir: str | Path | None = None) -> str | None:
    """Switch W&B to offline if no mode is chosen and no account is configured; returns the line for the user, or None.

    Call it before the first W&B run starts, in every process (child processes inherit `WANDB_MODE`).
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
    """Whether W&B would find credentials, by the lookup of its own command line; nothing is asked or sent."""
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    try:
        key = settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    except AuthenticationError:
        return True  # a malformed key, which W&B reports itself
    return bool(key or settings.identity_token_file)


@contextmanager
def _unless_lost(run: Any) -> Iterator[None]:
    """Continue without W&B where it cannot be reached; the data stay on disk for `wandb sync`."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in ("wandb", "requests", "urllib3") and not isinstance(error, ConnectionError | TimeoutError):
            raise
        folder = Path(run.dir).parent
        say(
            f"W&B could not be reached: {first_line(error)}. The run goes on. `wandb sync {folder}` sends what W&B has not got."
        )


def dashboard_definition(run: Run) -> dict[str, Any]:
    """Choose panels whose keys a run with these sources, detectors and figures logs; JSON types.

    A panel is a class of `wandb_workspaces.reports.v2`, as `kind`, and its arguments.
    """
    labels = list(by_detector(run.outcomes))
    bars: Callable[..., dict[str, Any]] = partial(dict, kind="BarPlot", orientation="h")
    by_source: dict[str, list[str]] = {}
    for one in run.outcomes:
        by_source.setdefault(one.source, []).append(f"detection/{one.source}/{one.label}/test/auroc")
    best = f"detection/mean/{labels[0]}/val/auroc"
    curves = sorted({key for _, values in curve_rows(run.outcomes) for key in values if key.endswith("/val/auroc")})
    figures = sorted(f"figures/{path.stem}" for path in (run.folder / "figures").glob("*.png"))
    panels = {
        "AUROC": [
            bars(title="Mean over sources", metrics=[f"detection/mean/{label}/test/auroc" for label in labels]),
            *(
                bars(title=f"Mean over {name}", metrics=[f"detection/{name}/{label}/test/auroc" for label in labels])
                for name in run.groups
            ),
            *(bars(title=source, metrics=keys) for source, keys in by_source.items()),
        ],
        "Runs side by side": [{"kind": "RunComparer", "diff_only": "split"}],
        "Figures": [{"kind": "MediaBrowser", "title": "Figures", "media_keys": figures}] if figures else [],
        "Guard": [bars(title=name, metrics=[f"guard/{name}"]) for name in _GUARD],
        "Sweeps": [
            {"kind": "ParallelCoordinatesPlot", "title": "Parameters", "columns": [*_PARAMETERS, best]},
            {"kind": "ParameterImportancePlot", "with_respect_to": best},
        ],
        "Cost": [
            bars(title="Seconds of detect", metrics=["cost/detect_seconds"]),
            bars(title="Seconds to fit and score", metrics=[f"cost/fit_seconds/{label}" for label in labels]),
        ],
        "Training of detectors": [{"kind": "LinePlot", "title": "AUROC on val", "x": EPOCH, "y": curves}]
        if curves
        else [],
    }
    return {"title": PROJECT, "sections": [{"name": name, "panels": found} for name, found in panels.items() if found]}


def apply_dashboard(definition: Mapping[str, Any], entity: str, project: str) -> tuple[str, str]:
    """Create or update the saved workspace and the report of a project, and return their addresses; or refuse."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise Refusal(
            '`dashboard` needs the package wandb-workspaces. Got none. `pip install "lightning_gradood[dashboard]"` brings it.'
        ) from error
    import wandb

    def drawn(kind: str, columns: Sequence[str] = (), **arguments: Any) -> Any:
        if columns:
            metrics = [*map(reports.Config, columns[:-1]), reports.SummaryMetric(columns[-1])]
            arguments["columns"] = [reports.ParallelCoordinatesPlotColumn(metric=metric) for metric in metrics]
        return getattr(reports, kind)(**arguments)

    name, place = definition["title"], {"entity": entity, "project": project}
    blocks, sections = list[Any](), list[Any]()
    for one in definition["sections"]:
        panels = [drawn(**panel) for panel in one["panels"]]
        sections.append(workspaces.Section(name=one["name"], is_open=True, panels=panels))
        blocks += [reports.H2(text=one["name"]), reports.PanelGrid(runsets=[reports.Runset(**place)], panels=panels)]
    workspace = workspaces.Workspace(name=name, sections=sections, **place)
    workspace._internal_name = "lightninggradood"  # fixed, so that the next call updates this view, and adds no other
    report = reports.Report(title=name, blocks=blocks, width="fluid", **place)
    try:
        earlier = [one for one in wandb.Api().reports(f"{entity}/{project}") if one.display_name == name]
        report.id = str(earlier[0].id) if earlier else ""
        workspace.save()
        report.save()
    except (wandb.errors.Error, ValueError, TypeError, KeyError) as error:  # a refused write raises any of these
        raise Refusal(
            f"`--entity` and `--project` should name a place in W&B where your account may write. Got `--entity {entity} "
            f"--project {project}`; W&B says: {first_line(error)[:200]}"
        ) from error
    return workspace.url, report.url
