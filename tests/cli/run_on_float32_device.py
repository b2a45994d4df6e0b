"""The README's first command on a device without float64; see tests/test_devices_without_float64.py."""

import shutil
from pathlib import Path

import pytest
from float32_device import without_float64
from tiny import only_run, results

from lightning_gradood.cli import main
from lightning_gradood.extraction import reading as reading_module

DIGITS = str(Path(__file__).parents[2] / "configs" / "digits.yaml")
SMALL = [
    *("--data.init_args.limit", "16", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
    *("--trainer.log_every_n_steps", "1", "--detection.resamples", "20", "--detection.mlp.max_epochs", "3"),
    *("--detection.false_positive_rate", "0.2"),  # six normal images in `val`
    *("--trainer.callbacks", "[{class_path: ReportCallback, init_args: {figures: false}}]"),
    *("--detection.detectors", "[Energy, GradNorm, Mahalanobis, ImageStatistics]"),
]


def fitted(*device):
    """The outcomes of a small run, by source."""
    main(["fit", "--config", DIGITS, *SMALL, *device])
    found = {
        (one["source"], one["detector"]): one["metrics"]["test"] for one in results(only_run("digits"))["outcomes"]
    }
    shutil.rmtree("runs")
    return found


def test_digits(monkeypatch):
    devices, read = [], reading_module.read_probes

    def noting(probes, network, images):
        devices.append(images.device.type)
        return read(probes, network, images)

    monkeypatch.setattr(reading_module, "read_probes", noting)
    truth = fitted("--trainer.accelerator", "cpu")
    with without_float64() as device:
        devices.clear()
        found = fitted("--trainer.accelerator", device.type, "--trainer.strategy", device.type)
    assert set(devices) == {device.type}
    assert found.keys() == truth.keys()
    assert len(found) > 7
    for where, metrics in truth.items():
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        assert numbers
        if where[0] == "cw":  # its search follows float32's rounding: other images, as near as these
            numbers = {name: value for name, value in numbers.items() if name in ("attack_l2", "attack_linf")}
            assert numbers
        tolerance = 0.1 if where[0] == "cw" else 1e-6
        assert {name: found[where][name] for name in numbers} == pytest.approx(numbers, abs=tolerance), where
