"""What a run leaves in its loggers: CSV files, W&B offline, and through the real client to a stand-in for its server."""

import csv
import json
import sys
import time
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger
from programs import Program, run_program
from report.wandb_reader import read_offline_run
from tiny import FILE, WITH_FIGURES, detect, refused, results
from wandb_server import wandb_server

from lightning_gradood.cli import main

LOGGED = ["--trainer.logger", "WandbLogger"]
OWN = """
from lightning.pytorch.loggers import Logger


class Mine(Logger):
    name, version, seen = 'mine', 0, {}

    def log_metrics(self, metrics, step=None):
        self.seen.update(metrics)

    def log_hyperparams(self, params):
        pass
"""
BROKEN = """
from lightning_gradood.detectors import Energy


class Broken(Energy):
    def score(self, records):
        raise ValueError('no score today')
"""


def test_a_run_with_wandb_and_no_account_says_one_line_and_keeps_everything_offline(no_account, caplog):
    words = ["--run_dir", "logged", "--report.formats", "[pdf]"]
    main(["fit", *FILE, *WITH_FIGURES, *LOGGED, *words])
    wandb.finish()
    (line,) = [line for line in caplog.messages if "no account is configured" in line]
    assert "offline in logged/wandb/offline-run-*" in line
    assert "`wandb sync logged/wandb/offline-run-*`" in line
    assert not Path("wandb").exists()
    run, document = read_offline_run(Path("logged")), results(Path("logged"))
    # numbers
    for outcome in document["outcomes"]:
        for split in ("val", "test"):
            name = f"detection/{outcome['source']}/mlp/{split}"
            logged = {metric: run.summary[f"{name}/{metric}"] for metric in outcome["metrics"][split]}
            assert logged == outcome["metrics"][split]
    assert run.summary["detection/mean/mlp/val/auroc"] == document["mean"]["mlp"]["val"]["auroc"]
    # curves
    assert len(run.values("train/loss")) == len(run.values("val/accuracy")) == 2
    for metric in ("train/loss", "val/loss", "val/auroc"):
        assert len(run.values(f"detector/nine/mlp/{metric}")) == 3
        assert run.steps[f"detector/nine/mlp/{metric}"] == "detector/epoch"
    # configuration
    assert run.config["data"]["init_args"]["limit"] == 20
    assert run.config["model"]["init_args"]["network"]["init_args"]["blocks_per_stage"] == 1
    assert run.config["detection"]["mlp"]["width"] == 128
    assert run.config["seed_everything"] == 0
    # table and figures, which are sent as PNG whatever is written
    (table,) = run.values("results")
    assert table["_type"] == "table-file"
    content = json.loads((run.files / table["path"]).read_text())
    assert ["nine", "nine", "mlp", "test", "auroc"] in [row[:5] for row in content["data"]]
    drawn = {path.stem for path in Path("logged/figures").glob("*.pdf")}
    assert drawn
    assert drawn == {key.removeprefix("figures/") for row in run.history for key in row if key.startswith("figures/")}
    assert {path.suffix for path in run.files.glob("media/images/**/*") if path.is_file()} == {".png"}


def test_without_a_logger_of_their_own_runs_have_csv_files(run):
    with open(run / "logs/version_0/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    values = {key: value for row in rows for key, value in row.items() if value}
    for outcome in results(run)["outcomes"]:
        logged = float(values[f"detection/{outcome['source']}/mlp/test/auroc"])
        assert logged == pytest.approx(outcome["metrics"]["test"]["auroc"], abs=1e-6)
    assert "detection/mean/mlp/val/auroc" in values
    assert sum(bool(row["train/loss"]) for row in rows) == 2
    assert sum(bool(row["detector/nine/mlp/val/loss"]) for row in rows) == 3
    assert "limit: 20" in (run / "logs/version_0/hparams.yaml").read_text()


def test_loggers_by_name_write_into_the_run_s_folder_and_others_where_they_say(run, monkeypatch):
    before = CSVLogger.__init__.__defaults__
    for name, file in (("CSVLogger", "metrics.csv"), ("TensorBoardLogger", "events.out.tfevents.*")):
        assert list(detect(run, name, "--trainer.logger", name).rglob(file))
    assert CSVLogger.__init__.__defaults__ == before  # what the parser was told is taken back
    Path("own_logger.py").write_text(OWN)
    monkeypatch.syspath_prepend(".")
    own = "{class_path: CSVLogger, init_args: {save_dir: mine, name: logs}}"
    detect(run, "here", "--trainer.logger", f"[{own}, own_logger.Mine]")
    assert Path("mine/logs/version_0/metrics.csv").exists()
    assert not Path("here/logs").exists()
    found = results(Path("here"))
    assert found["experiment"] == "tiny"  # whatever the folder is called
    from own_logger import Mine

    assert Mine.seen["detection/mean/mlp/val/auroc"] == found["mean"]["mlp"]["val"]["auroc"]


def test_a_choice_of_artifacts_that_is_none_is_refused(capsys):
    assert refused(["detect", *FILE, "--logging.artifacts", "some"], capsys).startswith("`logging.artifacts`: ")


def online(run, server, home, *flags):
    """A `detect` in a process of its own, on records that exist."""
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    command = [sys.executable, "-m", "lightning_gradood", "detect", *FILE, *LOGGED, *checkpoint, *flags]
    return run_program(command, environment=server.environment(home), timeout=200)


def sent_artifacts(server):
    """Name to aliases, those of the table aside, which W&B makes itself."""
    return {
        one["artifactCollectionName"]: sorted(alias["alias"] for alias in one["aliases"])
        for one in server.artifacts
        if one["artifactTypeName"] != "run_table"
    }


def test_a_run_is_found_by_project_group_verb_and_tags_and_keeps_its_guard(run, workplace):
    with wandb_server() as server:
        done = online(run, server, workplace)
        assert done.returncode == 0, done.stderr
        ((_, sent),) = server.runs.items()
        folder = Path("runs/tiny", sent.about["displayName"].removeprefix("tiny/"))
        assert (folder / "results.json").is_file()  # the run's name is its folder's
        about = [sent.about[key] for key in ("project", "groupName", "jobType", "tags")]
        assert about == ["lightning_gradood", "tiny", "detect", ["CifarResNet", "DigitsSource", "AllOnes"]]
        assert sent.summary["detection/mean/mlp/val/auroc"] == results(folder)["mean"]["mlp"]["val"]["auroc"]
        assert not [key for row in sent.history for key in row if key.startswith("detection/")]
        assert sent_artifacts(server) == {"guard-tiny": ["best", "latest"], "results-tiny": ["latest"]}
        assert sent.config["detection"]["mlp"]["width"] == 128


@pytest.mark.slow
def test_artifacts_and_names_are_as_they_are_asked_for(run, workplace):
    own = ["--trainer.logger.project", "mine", "--trainer.logger.name", "first", "--trainer.logger.tags", "[a]"]
    for best, flags, artifacts in [
        (0.0, ["--logging.artifacts", "guard"], {"guard-tiny": ["best", "latest"]}),
        (1.1, ["--logging.artifacts", "guard"], {"guard-tiny": ["latest"]}),
        (None, [*own, "--logging.artifacts", "none"], {}),
    ]:
        with wandb_server() as server:
            server.best = best
            done = online(run, server, workplace, *flags)
            assert done.returncode == 0, done.stderr
            assert sent_artifacts(server) == artifacts
    ((_, sent),) = server.runs.items()
    assert [sent.about[key] for key in ("project", "displayName", "tags")] == ["mine", "first", ["a"]]


@pytest.mark.slow
def test_a_detector_that_fails_and_a_classifier_near_chance_are_alerted_of(run, workplace):
    Path("broken.py").write_text(BROKEN)
    with wandb_server() as server:
        done = online(run, server, workplace, "--detection.detectors", "[broken.Broken]")
        assert done.returncode == 3, done.stderr
        assert "no score today" in done.stdout
        (failure,) = server.alerts
        assert failure["title"].endswith("detectors have failed")
        assert "`energy` on `nine`: ValueError: no score today." in failure["text"]
    with wandb_server() as server:
        done = online(run, server, workplace, "--ckpt_path", "null", "--cache_dir", "other")
        assert done.returncode == 0, done.stderr
        (low,) = server.alerts
        assert low["title"].endswith("the classifier is hardly better than chance")


@pytest.mark.slow
def test_a_run_whose_connection_is_lost_goes_on_and_ends(run, workplace):
    command = [sys.executable, "-m", "lightning_gradood", "detect", *FILE, *LOGGED, "--run_dir", "lost"]
    with wandb_server() as server:
        variables = server.environment(workplace) | {"WANDB_FINISH_TIMEOUT": "5"}
        process = Program([*command, "--ckpt_path", str(run / "checkpoints/best.ckpt")], environment=variables)
        deadline = time.monotonic() + 120
        while not server.runs:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert "W&B could not be reached: " in error
    assert "`wandb sync lost/wandb/run-" in error.replace(str(workplace) + "/", "")
    assert results(Path("lost"))["outcomes"]
    assert Path("lost/guard/guard.json").is_file()
