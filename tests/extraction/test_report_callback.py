"""The report callback leaves tables and figures in the run folder, numbers in the loggers, and a table on the screen."""

import csv
import json

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_gradood.evaluation import Outcome, SplitScores
from lightning_gradood.metrics import accuracy_at, detection_metrics
from lightning_gradood.report import DetectionReport, ReportCallback


def a_report():
    """Return a report of one detector on one source."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    scores, metrics = {}, {}
    for split in ("val", "test"):
        scores[split] = SplitScores([f"{split}/{row}" for row in range(40)], labels, rng.normal(2.0 * labels))
        accuracy = accuracy_at(scores[split].scores, labels, 1.0)
        metrics[split] = detection_metrics(scores[split].scores, labels) | {
            "accuracy_at_val_threshold": accuracy["plain"],
            "accuracy_at_val_threshold_balanced": accuracy["balanced"],
            "prevalence": 0.5,
        }
    counts = {split: {"normal": 20, "anomalous": 20} for split in ("train", "val", "test")}
    outcome = Outcome("smoke", "mlp", counts, metrics, (0.8, 0.99), 1.0, scores, [], 0.1)
    norms = {"normal": rng.lognormal(size=(10, 2)), "smoke": rng.lognormal(1, size=(10, 2))}
    samples = {name: rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8) for name in norms}
    return DetectionReport("fog", [outcome], norms, ["w", "b"], samples)


@pytest.mark.parametrize("figures", [True, False])
def test_it_writes_prints_and_logs(tmp_path, capsys, figures):
    report = a_report()
    logger = CSVLogger(tmp_path, name="logs")
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=logger, enable_progress_bar=False)
    ReportCallback(figures=figures).on_detect_end(trainer, report)
    logger.save()
    auroc = report.outcomes[0].metrics["test"]["auroc"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["outcomes"][0]["metrics"]["test"]["auroc"] == auroc
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert rows[0]["source"] == "smoke"
    drawn = sorted(path.name for path in (tmp_path / "figures").glob("*.png")) if figures else []
    assert bool(drawn) == figures
    assert (tmp_path / "figures").exists() == figures
    printed = capsys.readouterr().out
    assert f"{100 * auroc:.2f}" in printed
    assert f"Results and figures: {tmp_path}" in printed
    logged = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "detection/smoke/mlp/test/auroc" in logged
