"""What a whole run leaves in W&B, offline, and in the logger that runs have by default."""

import csv
import json
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger
from report.wandb_reader import WandbRun, read_offline_run
from tiny import FILE, WITH_FIGURES, only_run, results

from lightning_gradood.cli import main


@pytest.fixture
def logged(no_account, caplog):
    """A run with `WandbLogger`: its folder, what W&B holds, and what was said."""
    main(["fit", *FILE, *WITH_FIGURES, "--trainer.logger", "WandbLogger"])
    wandb.finish()
    folder = only_run()
    return folder, read_offline_run(folder), caplog.messages


def test_a_run_with_wandb_and_no_account_says_one_line_and_keeps_everything_offline(logged):
    folder, run, said = logged
    (line,) = [line for line in said if "no account is configured" in line]
    assert f"offline in {folder}/wandb/offline-run-*" in line
    assert f"`wandb sync {folder}/wandb/offline-run-*`" in line
    assert not Path("wandb").exists()
    _holds_the_numbers(run, folder)
    _holds_the_curves(run)
    _holds_the_configuration(run)
    _holds_table_and_figures(run, folder)


def _holds_the_numbers(run: WandbRun, folder: Path) -> None:
    document = results(folder)
    for outcome in document["outcomes"]:
        for split in ("val", "test"):
            for metric, value in outcome["metrics"][split].items():
                assert run.summary[f"detection/{outcome['source']}/mlp/{split}/{metric}"] == value
    mean = document["mean"]["mlp"]["val"]["auroc"]
    assert run.summary["detection/mean/mlp/val/auroc"] == mean


def _holds_the_curves(run: WandbRun) -> None:
    assert len(run.values("train/loss")) == 2
    assert len(run.values("val/accuracy")) == 2
    for metric in ("train/loss", "val/loss", "val/auroc"):
        assert len(run.values(f"detector/nine/mlp/{metric}")) == 3
        assert run.steps[f"detector/nine/mlp/{metric}"] == "detector/epoch"


def _holds_the_configuration(run: WandbRun) -> None:
    assert run.config["data"]["init_args"]["limit"] == 20
    assert run.config["model"]["init_args"]["network"]["init_args"]["blocks_per_stage"] == 1
    assert run.config["detection"]["mlp"]["width"] == 128
    assert run.config["seed_everything"] == 0


def _holds_table_and_figures(run: WandbRun, folder: Path) -> None:
    (table,) = run.values("results")
    assert table["_type"] == "table-file"
    content = json.loads((run.files / table["path"]).read_text())
    assert ["nine", "nine", "mlp", "test", "auroc"] in [row[:5] for row in content["data"]]
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn
    assert drawn == {key.removeprefix("figures/") for row in run.history for key in row if key.startswith("figures/")}


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


def test_a_logger_that_names_its_own_place_is_left_there(run):
    logger = "{class_path: CSVLogger, init_args: {save_dir: mine, name: logs}}"
    checkpoint = str(run / "checkpoints/best.ckpt")
    main(["detect", *FILE, "--trainer.logger", logger, "--ckpt_path", checkpoint, "--run_dir", "here"])
    assert Path("mine/logs/version_0/metrics.csv").exists()
    assert not Path("here/logs").exists()
    assert results(Path("here"))["experiment"] == "tiny"  # whatever the folder is called


@pytest.mark.parametrize(
    ("name", "file"), [("CSVLogger", "metrics.csv"), ("TensorBoardLogger", "events.out.tfevents.*")]
)
def test_loggers_work_by_name_alone_and_write_into_the_run_s_folder(name, file, run):
    if name == "TensorBoardLogger":
        pytest.importorskip("tensorboard")  # users bring it; a dependency of the tests
    before = CSVLogger.__init__.__defaults__
    checkpoint = str(run / "checkpoints/best.ckpt")
    main(["detect", *FILE, "--trainer.logger", name, "--ckpt_path", checkpoint, "--run_dir", "here"])
    assert list(Path("here").rglob(file))
    assert CSVLogger.__init__.__defaults__ == before  # what the parser was told is taken back


def test_a_logger_of_the_user_s_own_needs_no_place(run, monkeypatch):
    Path("mine.py").write_text(
        "from lightning.pytorch.loggers import Logger\n\n\n"
        "class Mine(Logger):\n"
        "    name, version, seen = 'mine', 0, {}\n\n"
        "    def log_metrics(self, metrics, step=None):\n"
        "        self.seen.update(metrics)\n\n"
        "    def log_hyperparams(self, params):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(".")
    checkpoint = str(run / "checkpoints/best.ckpt")
    main(["detect", *FILE, "--trainer.logger", "mine.Mine", "--ckpt_path", checkpoint, "--run_dir", "here"])
    from mine import Mine

    assert Mine.seen["detection/mean/mlp/val/auroc"] == results(Path("here"))["mean"]["mlp"]["val"]["auroc"]
