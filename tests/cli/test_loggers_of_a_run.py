"""What a run leaves in its loggers: CSV files, W&B offline, and through the real client to a stand-in for its server."""

import csv
import sys
import time
from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger
from programs import Program, run_program
from report.wandb_reader import read_offline_run
from tiny import FILE, WITH_FIGURES, detect, detecting, results
from wandb_server import wandb_server

from lightning_gradood.cli import main
from lightning_gradood.networks import CifarResNet

LOGGED = ["--trainer.logger", "WandbLogger"]


def test_a_run_with_wandb_and_no_account_says_one_line_and_keeps_everything_offline(no_account, caplog):
    groups = ["--data.groups", "{both: [nine, photographs], near: [nine]}"]
    main(["fit", *FILE, *WITH_FIGURES, *LOGGED, *groups, "--run_dir", "logged", "--report.formats", "[pdf]"])
    wandb.finish()
    (line,) = [line for line in caplog.messages if "no account is configured" in line]
    assert "offline in logged/wandb/offline-run-*" in line
    assert "`wandb sync logged/wandb/offline-run-*`" in line
    assert not Path("wandb").exists()
    run, document = read_offline_run(Path("logged")), results("logged")
    for group in ("mean", "both"):
        assert run.summary[f"detection/{group}/mlp/val/auroc"] == document["mean"]["mlp"]["val"]["auroc"]
    assert run.summary["detection/near/mlp/test/auroc"] == run.summary["detection/nine/mlp/test/auroc"]
    assert len(run.values("train/loss")) == 2
    assert len(run.values("detector/nine/mlp/val/auroc")) == 3
    assert run.config["detection"]["mlp"]["width"] == 128
    drawn = {path.stem for path in Path("logged/figures").glob("*.pdf")}  # figures are sent as PNG whatever is written
    assert drawn == {key.removeprefix("figures/") for row in run.history for key in row if key.startswith("figures/")}
    assert {path.suffix for path in run.files.glob("media/images/**/*") if path.is_file()} == {".png"}


def test_without_a_logger_of_their_own_runs_have_csv_files(run):
    with open(run / "logs/version_0/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    values = {key: value for row in rows for key, value in row.items() if value}
    logged, expected = values["detection/mean/mlp/val/auroc"], results(run)["mean"]["mlp"]["val"]["auroc"]
    assert float(logged) == pytest.approx(expected, abs=1e-6)
    assert sum(bool(row["train/loss"]) for row in rows) == 2
    assert sum(bool(row["detector/nine/mlp/val/loss"]) for row in rows) == 3
    assert "images: 20" in (run / "logs/version_0/hparams.yaml").read_text()


def test_loggers_by_name_write_into_the_run_s_folder_and_others_where_they_say(run):
    before = CSVLogger.__init__.__defaults__
    for name, file in (("CSVLogger", "metrics.csv"), ("TensorBoardLogger", "events.out.tfevents.*")):
        assert list(detect(run, name, "--trainer.logger", name).rglob(file))
    assert CSVLogger.__init__.__defaults__ == before  # what the parser was told is taken back
    detect(run, "here", "--trainer.logger", "{class_path: CSVLogger, init_args: {save_dir: mine, name: logs}}")
    assert Path("mine/logs/version_0/metrics.csv").exists()
    assert not Path("here/logs").exists()
    assert results("here")["experiment"] == "tiny"  # whatever the folder is called


@pytest.fixture
def online(run, workplace):
    """Run `detect` in a process of its own, on records that exist; what it printed, its exit code being as expected."""

    def online(server, *flags):
        command = [sys.executable, "-m", "lightning_gradood", *detecting(run), *LOGGED, *flags]
        done = run_program(command, environment=server.environment(workplace), timeout=200)
        assert done.returncode == 0, done.stderr

    return online


def sent_artifacts(server):
    """Name to aliases, those of the table aside, which W&B makes itself."""
    return {
        one["artifactCollectionName"]: sorted(alias["alias"] for alias in one["aliases"])
        for one in server.artifacts
        if one["artifactTypeName"] != "run_table"
    }


def test_a_run_is_found_by_project_group_verb_and_tags_and_keeps_its_guard(online):
    with wandb_server() as server:
        online(server)
        ((_, sent),) = server.runs.items()
        folder = Path("runs/tiny", sent.about["displayName"].removeprefix("tiny/"))
        assert (folder / "results.parquet").is_file()  # the run's name is its folder's
        about = [sent.about[key] for key in ("project", "groupName", "jobType", "tags")]
        assert about == ["lightning_gradood", "tiny", "detect", ["CifarResNet", "DigitsSource", "AllOnes"]]
        assert sent.summary["detection/mean/mlp/val/auroc"] == results(folder)["mean"]["mlp"]["val"]["auroc"]
        assert not [key for row in sent.history for key in row if key.startswith("detection/")]
        assert sent_artifacts(server) == {"guard-tiny": ["best", "latest"], "results-tiny": ["latest"]}


@pytest.mark.slow
def test_artifacts_and_names_are_as_they_are_asked_for(online):
    own = ["--trainer.logger.project", "mine", "--trainer.logger.name", "first", "--trainer.logger.tags", "[a]"]
    for best, flags, artifacts in [
        (0.0, ["--logging.artifacts", "guard"], {"guard-tiny": ["best", "latest"]}),
        (1.1, ["--logging.artifacts", "guard"], {"guard-tiny": ["latest"]}),
        (None, [*own, "--logging.artifacts", "none"], {}),
    ]:
        with wandb_server() as server:
            server.best = best
            online(server, *flags)
            assert sent_artifacts(server) == artifacts
    ((_, sent),) = server.runs.items()
    assert [sent.about[key] for key in ("project", "displayName", "tags")] == ["mine", "first", ["a"]]


@pytest.mark.slow
def test_a_classifier_near_chance_is_alerted_of(online):
    torch.save(CifarResNet(1, 3).state_dict(), "untrained.pt")
    with wandb_server() as server:
        online(server, "--ckpt_path", "null", "--model.weights", "untrained.pt", "--cache_dir", "other")
    (low,) = server.alerts
    assert low["title"].endswith("the classifier is hardly better than chance")


@pytest.mark.slow
def test_a_run_whose_connection_is_lost_goes_on_and_ends(run, workplace):
    command = [sys.executable, "-m", "lightning_gradood", *detecting(run), *LOGGED, "--run_dir", "lost"]
    with wandb_server() as server:
        variables = server.environment(workplace) | {"WANDB_FINISH_TIMEOUT": "5"}
        process = Program(command, environment=variables)
        deadline = time.monotonic() + 120
        while not server.runs:
            assert process.returncode is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert "W&B could not be reached: " in error
    assert "`wandb sync lost/wandb/run-" in error.replace(str(workplace) + "/", "")
    assert results("lost")["outcomes"]
    assert Path("lost/guard/guard.json").is_file()
