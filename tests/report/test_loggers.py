import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from PIL import Image

from lightning_gradood.report import log_report
from lightning_gradood.report.tables import curve_rows, detection_scalars

from .examples import report
from .wandb_reader import read_offline_run

# In a process of its own, as a run of ours is: W&B keeps a service and settings for the life of a process. Each run
# logs a classifier's fit first, whose steps lie far beyond any detector's epoch.
LOG_TO_WANDB = """
import sys
from pathlib import Path
from lightning.pytorch.loggers import WandbLogger
from lightning_gradood.report import log_report
from report.examples import report

for name, options in {"plain": {}, "prefixed": {"prefix": "mine"}, "disabled": {"mode": "disabled"}}.items():
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    logger = WandbLogger(project="test", save_dir=folder, **options)
    for step in (500, 1000):
        logger.log_metrics({"train/loss": 1.0 / step}, step=step)
    log_report(report(), [logger], folder)
    logger.experiment.finish()
"""


@pytest.fixture(scope="module")
def wandb_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb")
    tests = Path(__file__).parent.parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOG_TO_WANDB, str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "monotonically increasing" not in done.stderr  # what W&B says when it drops a row
    return folder


@pytest.fixture(scope="module")
def wandb_run(wandb_folder):
    return read_offline_run(wandb_folder / "plain")


def test_wandb_gets_every_number_under_its_key(wandb_run):
    expected = detection_scalars(report().outcomes)
    assert {key: wandb_run.summary[key] for key in expected} == expected
    assert not [
        key for row in wandb_run.history for key in row if key.startswith("detection/")
    ]  # no curves of one point
    assert wandb_run.values("train/loss") == [1 / 500, 1 / 1000]


def test_wandb_summary_holds_the_best_of_each_curve_and_the_classifier_s_step(wandb_run):
    for key in {key for _, values in curve_rows(report().outcomes) for key in values}:
        kept = {"loss": min, "auroc": max}[key.rpartition("/")[2]]
        assert wandb_run.summary[key] == {kept.__name__: kept(wandb_run.values(key))}
    assert wandb_run.summary["trainer/global_step"] == 1000  # the classifier's step is not overwritten by epochs


def test_wandb_gets_every_point_of_every_curve_against_its_epoch(wandb_run):
    rows = curve_rows(report().outcomes)
    keys = {key for _, values in rows for key in values}
    assert len(keys) == 2 * 3
    for key in keys:
        expected = [(epoch, values[key]) for epoch, values in rows if key in values]
        logged = [(row["detector/epoch"], row[key]) for row in wandb_run.history if key in row]
        assert logged == expected
        assert wandb_run.steps[key] == "detector/epoch"


def test_wandb_gets_the_table(wandb_run):
    (entry,) = wandb_run.values("results")
    assert entry["_type"] == "table-file"
    table = json.loads((wandb_run.files / entry["path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    found = {(row["source"], row["detector"], row["split"], row["metric"]): row for row in rows}
    assert len(rows) == len(found)
    assert all(row["value"] is not None for row in rows)
    for outcome in report().outcomes:
        row = found[outcome.source, outcome.detector, "test", "auroc"]
        assert row["value"] == outcome.metrics["test"]["auroc"]
        assert (row["low"], row["high"]) == outcome.auroc_interval
        assert found[outcome.source, outcome.detector, "test", "n_anomalous"]["value"] == 30


def test_wandb_gets_the_figures(wandb_folder, wandb_run):
    written = sorted((wandb_folder / "plain" / "figures").glob("*.png"))
    assert len(written) == 8
    for path in written:
        (entry,) = wandb_run.values(f"figures/{path.stem}")
        (name,) = entry["filenames"]
        assert (wandb_run.files / name).read_bytes() == path.read_bytes()


def test_a_prefix_does_not_hide_the_keys_from_sweeps(wandb_folder):
    run = read_offline_run(wandb_folder / "prefixed")
    assert run.values("mine-train/loss") == [1 / 500, 1 / 1000]
    assert run.summary["detection/mean/mlp/val/auroc"] > 0


def test_wandb_may_be_disabled(wandb_folder):
    assert not list((wandb_folder / "disabled").glob("wandb/offline-run-*"))


def _csv_rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_csv_gets_the_numbers_after_those_of_the_fit(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version="v")
    logger.log_metrics({"train/loss": 0.5}, step=1000)
    logger.finalize("success")
    log_report(report(), [logger], tmp_path)
    rows = _csv_rows(tmp_path / "run" / "v")
    assert rows[0] == {"train/loss": "0.5", "step": "1000"}
    final = detection_scalars(report().outcomes)
    assert {key: float(value) for key, value in rows[-1].items() if key != "step"} == final
    curves = curve_rows(report().outcomes)
    assert len(rows) == 1 + len(curves) + 1
    for row, (epoch, values) in zip(rows[1:-1], curves, strict=True):
        assert row.pop("step") == str(epoch)
        assert {key: float(value) for key, value in row.items()} == values


def test_csv_and_other_loggers_get_no_files(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version="v")
    log_report(report(), [logger], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["metrics.csv"]


class Remembering(Logger):
    """A logger of a user's own."""

    name = "mine"
    version = 0

    def __init__(self):
        super().__init__()
        self.logged = {}

    def log_metrics(self, metrics, step=None):
        self.logged.update({(key, step): value for key, value in metrics.items()})

    def log_hyperparams(self, params):
        pass


def test_any_other_logger_gets_the_numbers(tmp_path):
    logger = Remembering()
    log_report(report(), [logger], tmp_path)
    expected = {(key, 0): value for key, value in detection_scalars(report().outcomes).items()}
    for epoch, values in curve_rows(report().outcomes):
        expected |= {(key, epoch): value for key, value in values.items()}
    assert logger.logged == expected


def test_no_loggers_is_no_problem(tmp_path):
    log_report(report(), [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_numbers_and_figures(tmp_path):
    pytest.importorskip("tensorboard")  # a logger that users may bring; not a dependency of ours
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="run", version="v")
    logger.log_metrics({"train/loss": 0.5}, step=1000)
    logger.finalize("success")  # as after the classifier's fit
    log_report(report(), [logger], tmp_path)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "run" / "v"), size_guidance={"images": 0, "scalars": 0}).Reload()
    for key, value in detection_scalars(report().outcomes).items():
        (event,) = events.Scalars(key)
        assert event.value == pytest.approx(value, rel=1e-6)  # TensorBoard keeps float32
    key = "detector/places/lsun/mlp/val/loss"
    expected = [(epoch, values[key]) for epoch, values in curve_rows(report().outcomes) if key in values]
    assert [event.step for event in events.Scalars(key)] == [epoch for epoch, _ in expected]
    assert [event.value for event in events.Scalars(key)] == pytest.approx([value for _, value in expected])
    assert len(events.Tags()["images"]) == 8


def test_figures_of_an_earlier_report_are_not_passed_on(tmp_path, monkeypatch):
    stale = tmp_path / "figures" / "samples.png"
    stale.parent.mkdir()
    stale.write_bytes(b"stale")
    run = wandb.init(mode="disabled", dir=tmp_path)  # needs no account, and starts no process
    logger = WandbLogger(experiment=run)
    shown = {}
    monkeypatch.setattr(logger, "log_table", lambda *args, **kwargs: None)
    monkeypatch.setattr(logger, "log_image", lambda key, paths: shown.update({key: np.asarray(Image.open(paths[0]))}))
    from lightning_gradood.report.loggers import log_pictures

    log_pictures(logger, report(), tmp_path, figures=False)
    assert shown == {}
    log_pictures(logger, report(), tmp_path, figures=True)
    assert len(shown) == 8
    assert shown["figures/samples"].ndim == 3
    run.finish()
