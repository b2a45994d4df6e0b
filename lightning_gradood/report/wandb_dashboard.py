"""W&B's dashboard of a project: a saved workspace and a report with the same panels, over the keys that runs log."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightning_gradood.core import Refusal
from lightning_gradood.evaluation import Outcome
from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import by_detector, curve_rows

TITLE = "lightning_gradood"  # of workspace and report; existing ones of this name are replaced

Kind = Literal["bars", "lines", "images", "parallel coordinates", "importance", "comparer"]
_VIEW = "lightninggradood"  # W&B's own name of the workspace, part of its address
_PARAMETERS = ("detection.mlp.width", "detection.mlp.learning_rate", "detection.mlp.weight_decay", "detection.seed")
_FIGURES = {
    "ROC curves": "roc_",
    "Precision and recall": "precision_recall_",
    "Scores": "scores_",
    "Gradient norms by layer": "layer_norms",
}
_GUARD = {
    "Normal test images flagged": "guard/flagged",
    "Share that may be flagged": "guard/false_positive_rate",
    "Mean AUROC on val": "guard/mean_val_auroc",
}


@dataclass(frozen=True)
class Panel:
    """One panel; `keys` are summary keys, history keys for `lines`, media keys for `images`."""

    title: str
    kind: Kind
    keys: Sequence[str] = ()
    parameters: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: Sequence[Panel]


def dashboard_sections(run: Run) -> list[Section]:
    """Choose panels whose keys a run with these sources, detectors and figures logs."""
    labels = list(by_detector(run.outcomes))
    best = f"detection/mean/{labels[0]}/val/auroc"
    fitting = Panel("Seconds to fit and score", "bars", [f"cost/fit_seconds/{label}" for label in labels])
    sweeps = Panel("Parameters", "parallel coordinates", [best], _PARAMETERS)
    curves = {key: "" for _, values in curve_rows(run.outcomes) for key in values if key.endswith("/val/auroc")}
    figures = sorted(path.stem for path in (run.folder / "figures").glob("*.png"))
    found = [
        Section("AUROC", _auroc_panels(run.outcomes, labels)),
        Section("Runs side by side", [Panel("What differs", "comparer")]),
        Section("Figures", _figure_panels(figures)),
        Section("Guard", [Panel(title, "bars", [key]) for title, key in _GUARD.items()]),
        Section("Sweeps", [sweeps, Panel("Importance of parameters", "importance", [best])]),
        Section("Cost", [Panel("Seconds of detect", "bars", ["cost/detect_seconds"]), fitting]),
        Section("Training of detectors", [Panel("AUROC on val", "lines", list(curves))] if curves else []),
    ]
    return [section for section in found if section.panels]


def _auroc_panels(outcomes: Sequence[Outcome], labels: Sequence[str]) -> list[Panel]:
    by_source: dict[str, list[str]] = {}
    for one in outcomes:
        by_source.setdefault(one.source, []).append(f"detection/{one.source}/{one.label}/test/auroc")
    means = Panel("Mean over sources", "bars", [f"detection/mean/{label}/test/auroc" for label in labels])
    return [means, *(Panel(source, "bars", keys) for source, keys in by_source.items())]


def _figure_panels(figures: Sequence[str]) -> list[Panel]:
    kinds = {title: [name for name in figures if name.startswith(start)] for title, start in _FIGURES.items()}
    return [Panel(title, "images", [f"figures/{name}" for name in names]) for title, names in kinds.items() if names]


def definition(sections: Sequence[Section]) -> dict[str, Any]:
    """The sections as JSON types."""
    return {"title": TITLE, "sections": [asdict(section) for section in sections]}


def apply_dashboard(sections: Sequence[Section], entity: str, project: str) -> tuple[str, str]:
    """Create or update the saved workspace and the report of a project, and return their addresses.

    Raises:
        Refusal: the package `wandb-workspaces` is missing, or W&B does not let the account write there.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise Refusal(
            '`dashboard` needs the package wandb-workspaces. Got none. `pip install "lightning_gradood[dashboard]"` brings it.'
        ) from error
    import wandb

    workspace = _workspace(workspaces, reports, sections, entity, project)
    report = _report(reports, sections, entity, project)
    try:
        report.id = _report_of(entity, project)
        workspace.save()
        report.save()
    except (wandb.errors.Error, ValueError, TypeError, KeyError) as error:  # a refused write raises any of these
        raise Refusal(
            f"`--entity` and `--project` should name a place in W&B where your account may write. Got `--entity {entity} "
            f"--project {project}`; W&B says: {str(error).strip().splitlines()[0][:200]}"
        ) from error
    return workspace.url, report.url


def _workspace(workspaces: Any, reports: Any, sections: Sequence[Section], entity: str, project: str) -> Any:
    made = [
        workspaces.Section(name=one.name, is_open=True, panels=[_panel(reports, panel) for panel in one.panels])
        for one in sections
    ]
    workspace = workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=made)
    workspace._internal_name = _VIEW  # fixed, so that the next call updates this view rather than adds another
    return workspace


def _report(reports: Any, sections: Sequence[Section], entity: str, project: str) -> Any:
    runset = reports.Runset(entity=entity, project=project)
    blocks: list[Any] = []
    for one in sections:
        grid = reports.PanelGrid(runsets=[runset], panels=[_panel(reports, panel) for panel in one.panels])
        blocks += [reports.H2(text=one.name), grid]
    return reports.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def _report_of(entity: str, project: str) -> str:
    """Id of the report made by an earlier call; empty if there is none."""
    import wandb

    for found in wandb.Api().reports(f"{entity}/{project}"):
        if found.display_name == TITLE:
            return str(found.id)
    return ""


def _panel(reports: Any, panel: Panel) -> Any:
    keys = list(panel.keys)
    if panel.kind == "bars":
        return reports.BarPlot(title=panel.title, metrics=keys, orientation="h")
    if panel.kind == "lines":
        return reports.LinePlot(title=panel.title, x="detector/epoch", y=keys)
    if panel.kind == "images":
        return reports.MediaBrowser(title=panel.title, media_keys=keys)
    if panel.kind == "importance":
        return reports.ParameterImportancePlot(with_respect_to=keys[0])
    if panel.kind == "comparer":
        return reports.RunComparer(diff_only="split")
    column = reports.ParallelCoordinatesPlotColumn
    columns = [column(metric=reports.Config(name)) for name in panel.parameters]
    columns += [column(metric=reports.SummaryMetric(name)) for name in keys]
    return reports.ParallelCoordinatesPlot(title=panel.title, columns=columns)
