"""The dashboard shows keys that runs log, is sent through the real client, and is kept as a file without an account."""

import functools
import json
import sys
from pathlib import Path

import pytest
import wandb
from programs import run_program
from report.wandb_reader import read_offline_run
from tiny import WITH_FIGURES, called, detect, refused
from wandb_server import ENTITY, wandb_server


@pytest.mark.parametrize("protocol", ["known", pytest.param("cross", marks=pytest.mark.slow)])
def test_every_key_of_the_definition_is_one_that_a_run_logs(protocol, run, no_account, capsys):
    own = ["--detection.protocol", protocol, "--detection.detectors", "[Energy]", "--trainer.logger", "WandbLogger"]
    detect(run, "mine", *WITH_FIGURES, *own)
    wandb.finish()
    _, said, _ = called(["dashboard", "mine", "--entity", ENTITY], capsys)
    assert "Nothing was sent, as no W&B account is configured." in said
    assert "`python -m lightning_gradood dashboard mine --entity team --project lightning_gradood`" in said
    logged = read_offline_run(Path("mine"))
    history = {key for row in logged.history for key in row}
    sections = json.loads(Path("mine/dashboard.json").read_text())["sections"]
    panels = [panel for section in sections for panel in section["panels"]]
    summary = {key for panel in panels for key in panel.get("metrics", ())}
    (*parameters, best) = next(panel["columns"] for panel in panels if panel["kind"] == "ParallelCoordinatesPlot")
    for parameter in parameters:
        functools.reduce(lambda config, part: config[part], parameter.split("."), logged.config)
    assert summary | {best} <= set(logged.summary)
    drawn = {key for panel in panels for key in (*panel.get("y", ()), *panel.get("media_keys", ()))}
    assert drawn <= history
    aurocs = {key for key in logged.summary if key.startswith("detection/") and key.endswith("/test/auroc")}
    assert aurocs <= summary  # no detector or source is forgotten
    assert {f"figures/{path.stem}" for path in Path("mine/figures").glob("*.png")} <= drawn
    assert "LinePlot" in {panel["kind"] for panel in panels}


def dashboard(server, home, *flags):
    command = [sys.executable, "-m", "lightning_gradood", "dashboard", *flags]
    return run_program(command, environment=server.environment(home), timeout=200)


@pytest.mark.slow
def test_a_second_call_updates_workspace_and_report(run, workplace):
    with wandb_server() as server:
        for _ in range(2):
            done = dashboard(server, workplace, "--entity", ENTITY)
            assert done.returncode == 0, done.stderr
        views = [(view["type"], view["inserted"], view["displayName"]) for view in server.views]
        assert views == [
            (kind, first, "lightning_gradood") for first in (True, False) for kind in ("project-view", "runs")
        ]
        for view in server.views:
            assert "detection/mean/mlp/test/auroc" in view["spec"]
            assert "guard/flagged" in view["spec"]
    assert f"Workspace: {server.address}/{ENTITY}/lightning_gradood?nw=" in done.stdout
    assert f"Report: {server.address}/{ENTITY}/lightning_gradood/reports/" in done.stdout


def test_a_place_where_the_account_may_not_write_is_refused_and_the_definition_is_kept(run, workplace):
    with wandb_server() as server:
        server.refuses_views = True
        done = dashboard(server, workplace, str(run), "--entity", "nobody", "--project", "nothing")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Got `--entity nobody --project nothing`; W&B says: " in done.stderr.splitlines()[-1]
    assert json.loads((run / "dashboard.json").read_text())["sections"]


def test_without_results_there_is_nothing_to_show(capsys):
    assert "no runs/*/*/results.parquet exists" in refused(["dashboard", "--entity", "me"], capsys)
    assert "`--entity` should be given. Got none." in refused(["dashboard"], capsys)
