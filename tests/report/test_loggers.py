"""Every logger gets every number under its key; W&B gets table and figures too, and is offline without an account."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from asserts import assert_refused
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from lightning_gradood.report import apply_dashboard, figure_bytes, offline_without_account
from lightning_gradood.report.figures import image_rows
from lightning_gradood.report.loggers import log_run
from lightning_gradood.report.run import curve_rows, long_results
from lightning_gradood.report.tables import detection_scalars

from .examples import OUTCOMES, SAMPLES, run
from .wandb_reader import read_offline_run

# In a process of its own, as a run of ours is: W&B keeps a service and settings for the life of a process. Each run
# logs a classifier's fit first, whose steps lie far beyond any detector's epoch.
LOG_TO_WANDB = """
import sys
from pathlib import Path
from lightning.pytorch.loggers import WandbLogger
from lightning_gradood.report import ReportSettings
from lightning_gradood.report.figures import draw_figures, drawings
from lightning_gradood.report.loggers import log_run
from report.examples import SAMPLES, run

for name, options in {"plain": {}, "prefixed": {"prefix": "mine"}, "disabled": {"mode": "disabled"}}.items():
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    found = run(arrays={"samples": SAMPLES})
    logger = WandbLogger(project="test", save_dir=folder, **options)
    for step in (500, 1000):
        logger.log_metrics({"train/loss": 1.0 / step}, step=step)
    pictures = draw_figures(drawings(found), ReportSettings(), found.folder / "figures") if name == "plain" else {}
    log_run(found, [logger], pictures)
    logger.experiment.finish()
    if name == "plain":
        print(found.folder)
"""
SCALARS, CURVES = detection_scalars(OUTCOMES), curve_rows(OUTCOMES)


def test_wandb_gets_every_number_under_its_key_curves_against_their_epochs_the_table_and_the_figures(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "WANDB_MODE": "offline", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", "-c", LOG_TO_WANDB, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "monotonically increasing" not in done.stderr  # what W&B says when it drops a row
    assert not list((tmp_path / "disabled").glob("wandb/offline-run-*"))
    run, prefixed = (read_offline_run(tmp_path / name) for name in ("plain", "prefixed"))
    assert {key: run.summary[key] for key in SCALARS} == SCALARS
    assert {key: prefixed.summary[key] for key in SCALARS} == SCALARS  # a prefix does not hide the keys from sweeps
    logged = {key for row in run.history for key in row}
    assert not [key for key in logged if key.startswith("detection/")]  # no curves of one point
    assert run.values("train/loss") == prefixed.values("mine-train/loss") == [1 / 500, 1 / 1000]
    assert run.summary["trainer/global_step"] == 1000  # the classifier's step is not overwritten by epochs
    keys = {key for _, values in CURVES for key in values}
    assert len(keys) == 2 * 3
    for key in keys:
        points = [(row["detector/epoch"], row[key]) for row in run.history if key in row]
        assert points == [(epoch, values[key]) for epoch, values in CURVES if key in values]
        assert run.steps[key] == "detector/epoch"
        kept = {"loss": min, "auroc": max}[key.rpartition("/")[2]]
        assert run.summary[key] == {kept.__name__: kept(run.values(key))}
    (entry,) = run.values("results")
    table = json.loads((run.files / entry["path"]).read_text())
    rows = [row for row in long_results(OUTCOMES) if row["value"] is not None]
    written = [list(row.values()) for row in rows]
    assert (entry["_type"], table["columns"], table["data"]) == ("table-file", list(rows[0]), written)
    figures = sorted(Path(done.stdout.strip(), "figures").glob("*.png"))
    assert len(figures) == 8
    for path in figures:
        (entry,) = run.values(f"figures/{path.stem}")
        (name,) = entry["filenames"]
        assert Image.open(run.files / name).tobytes() == Image.open(path).tobytes()
    assert not [key for row in prefixed.history for key in row if key.startswith("figures/")]  # which wants none


def test_csv_gets_the_numbers_after_those_of_the_fit_and_no_files(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version="v")
    logger.log_metrics({"train/loss": 0.5}, step=1000)
    logger.finalize("success")
    log_run(run(), [logger], {})
    with (tmp_path / "run" / "v" / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    first, *curves, last = rows
    assert first == {"train/loss": 0.5, "step": 1000}
    assert last == SCALARS | {"step": 0}
    assert curves == [values | {"step": epoch} for epoch, values in CURVES]
    log_run(run(), [], {})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["metrics.csv"]


def test_tensorboard_gets_numbers_and_figures(tmp_path):
    pytest.importorskip("tensorboard")  # a logger that users may bring; not a dependency of ours
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="run", version="v")
    logger.log_metrics({"train/loss": 0.5}, step=1000)
    logger.finalize("success")  # as after the classifier's fit
    log_run(run(), [logger], {"samples": figure_bytes(image_rows(SAMPLES))})
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "run" / "v"), size_guidance={"images": 0, "scalars": 0}).Reload()
    for key, value in SCALARS.items():
        (event,) = events.Scalars(key)
        assert event.value == pytest.approx(value, rel=1e-6)  # TensorBoard keeps float32
    key = "detector/places/lsun/mlp/val/loss"
    epochs, values = zip(*((epoch, values[key]) for epoch, values in CURVES if key in values), strict=True)
    assert [event.step for event in events.Scalars(key)] == [*epochs]
    assert [event.value for event in events.Scalars(key)] == pytest.approx(values)
    assert events.Tags()["images"] == ["figures/samples"]


KEY = "0" * 40  # nobody's


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, without any W&B setting, and W&B as if just started: it reads its settings once."""
    monkeypatch.setenv("WANDB_MODE", "")  # registered so that what the function itself sets is undone too
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a network that is touched fails at once: nothing listens there
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


def test_without_account_the_run_goes_offline_and_the_user_reads_one_line(home, monkeypatch):
    assert "no account is configured" in offline_without_account()
    assert os.environ["WANDB_MODE"] == "offline"
    assert offline_without_account() is None  # said once
    monkeypatch.delenv("WANDB_MODE")
    assert f"in {home}/elsewhere/wandb/offline-run-*" in offline_without_account(home / "elsewhere")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_DIR", "here")
    assert "wandb sync here/wandb/offline-run-*" in offline_without_account()


def test_an_account_or_a_chosen_mode_is_kept(home, monkeypatch):
    settings, netrc = home / ".config" / "wandb" / "settings", home / ".netrc"
    settings.parent.mkdir(parents=True)
    netrc.write_text(f"machine wandb.example.com\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)  # Python refuses a netrc that others can read
    cases = [
        ("WANDB_API_KEY", KEY), ("WANDB_API_KEY", "not a key"), ("WANDB_IDENTITY_TOKEN_FILE", "token.jwt"),
        ("WANDB_MODE", "online"), ("mode", "offline"),  # of the settings file
        ("WANDB_BASE_URL", "https://wandb.example.com"),  # for which netrc has an account
        ("WANDB_BASE_URL", "https://other.example.com"),  # for which it has none
    ]  # fmt: skip
    for name, value in cases:
        with monkeypatch.context() as patch:
            patch.setenv("WANDB_MODE", "")
            patch.delenv("WANDB_MODE")
            settings.write_text(f"[default]\n{name} = {value}\n" if name == "mode" else "")
            if name != "mode":
                patch.setenv(name, value)
            wandb.teardown()
            before, offline = os.environ.get("WANDB_MODE"), "other" in value
            assert (offline_without_account() is not None) == offline, (name, value)
            assert os.environ.get("WANDB_MODE") == ("offline" if offline else before), (name, value)


def test_a_missing_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)  # as if it were not installed
    sentence = "needs the package wandb-workspaces. Got none. `pip install "
    assert_refused((lambda: apply_dashboard({"sections": []}, "team", "project"), sentence))
