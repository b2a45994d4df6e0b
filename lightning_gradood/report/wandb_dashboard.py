"""W&B's dashboard of a project: a saved workspace and a report with the same panels, over the keys that runs log."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_gradood.core import Refusal
from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import by_detector, curve_rows

TITLE = "lightning_gradood"  # of workspace and report; existing ones of this name are replaced
_VIEW = "lightninggradood"  # W&B's own name of the workspace, part of its address
_PARAMETERS = ["detection.mlp.width", "detection.mlp.learning_rate", "detection.mlp.weight_decay", "detection.seed"]
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

Panel = dict[str, Any]  # title, kind, keys (of the summary, the history for `lines`, media for `images`), parameters


def _panel(title: str, kind: str, keys: Sequence[str] = (), parameters: Sequence[str] = ()) -> Panel:
    return {"title": title, "kind": kind, "keys": list(keys), "parameters": list(parameters)}


def dashboard_definition(run: Run) -> dict[str, Any]:
    """Choose panels whose keys a run with these sources, detectors and figures logs; JSON types."""
    labels, by_source = list(by_detector(run.outcomes)), dict[str, list[str]]()
    for one in run.outcomes:
        by_source.setdefault(one.source, []).append(f"detection/{one.source}/{one.label}/test/auroc")
    best = f"detection/mean/{labels[0]}/val/auroc"
    curves = {key: "" for _, values in curve_rows(run.outcomes) for key in values if key.endswith("/val/auroc")}
    names = sorted(path.stem for path in (run.folder / "figures").glob("*.png"))
    figures = {title: [f"figures/{name}" for name in names if name.startswith(s)] for title, s in _FIGURES.items()}
    panels = {
        "AUROC": [
            _panel("Mean over sources", "bars", [f"detection/mean/{label}/test/auroc" for label in labels]),
            *(_panel(source, "bars", keys) for source, keys in by_source.items()),
        ],
        "Runs side by side": [_panel("What differs", "comparer")],
        "Figures": [_panel(title, "images", keys) for title, keys in figures.items() if keys],
        "Guard": [_panel(title, "bars", [key]) for title, key in _GUARD.items()],
        "Sweeps": [
            _panel("Parameters", "parallel coordinates", [best], _PARAMETERS),
            _panel("Importance of parameters", "importance", [best]),
        ],
        "Cost": [
            _panel("Seconds of detect", "bars", ["cost/detect_seconds"]),
            _panel("Seconds to fit and score", "bars", [f"cost/fit_seconds/{label}" for label in labels]),
        ],
        "Training of detectors": [_panel("AUROC on val", "lines", list(curves))] if curves else [],
    }
    return {"title": TITLE, "sections": [{"name": name, "panels": found} for name, found in panels.items() if found]}


def apply_dashboard(definition: Mapping[str, Any], entity: str, project: str) -> tuple[str, str]:
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

    blocks, sections, place = list[Any](), list[Any](), {"entity": entity, "project": project}
    for one in definition["sections"]:
        panels = [_drawn(reports, panel) for panel in one["panels"]]
        sections.append(workspaces.Section(name=one["name"], is_open=True, panels=panels))
        blocks += [reports.H2(text=one["name"]), reports.PanelGrid(runsets=[reports.Runset(**place)], panels=panels)]
    workspace = workspaces.Workspace(name=TITLE, sections=sections, **place)
    workspace._internal_name = _VIEW  # fixed, so that the next call updates this view rather than adds another
    report = reports.Report(title=TITLE, blocks=blocks, width="fluid", **place)
    try:
        earlier = [one for one in wandb.Api().reports(f"{entity}/{project}") if one.display_name == TITLE]
        report.id = str(earlier[0].id) if earlier else ""
        workspace.save()
        report.save()
    except (wandb.errors.Error, ValueError, TypeError, KeyError) as error:  # a refused write raises any of these
        raise Refusal(
            f"`--entity` and `--project` should name a place in W&B where your account may write. Got `--entity {entity} "
            f"--project {project}`; W&B says: {str(error).strip().splitlines()[0][:200]}"
        ) from error
    return workspace.url, report.url


def _drawn(reports: Any, panel: Panel) -> Any:
    title, keys, column = panel["title"], panel["keys"], reports.ParallelCoordinatesPlotColumn
    match panel["kind"]:
        case "bars":
            return reports.BarPlot(title=title, metrics=keys, orientation="h")
        case "lines":
            return reports.LinePlot(title=title, x="detector/epoch", y=keys)
        case "images":
            return reports.MediaBrowser(title=title, media_keys=keys)
        case "importance":
            return reports.ParameterImportancePlot(with_respect_to=keys[0])
        case "comparer":
            return reports.RunComparer(diff_only="split")
    metrics = [*map(reports.Config, panel["parameters"]), *map(reports.SummaryMetric, keys)]
    return reports.ParallelCoordinatesPlot(title=title, columns=[column(metric=one) for one in metrics])
