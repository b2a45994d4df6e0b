"""The bar names the source that is probed and counts images, not batches."""

import itertools
import re

import lightning.pytorch as pl
import pytest
from small_experiment import data, probe, task

from lightning_gradood.data import DigitsSource
from lightning_gradood.extraction import ImageProgressBar, progress


class Clock:
    """A clock that advances by half a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 0.5
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Replace the time of the bars."""
    monkeypatch.setattr(progress, "time", Clock())


def with_bar(folder, **settings):
    bar = ImageProgressBar(**settings)
    probe(folder, task(), data(), callbacks=[bar], enable_progress_bar=True)
    return bar


def test_it_names_each_source_and_says_images_per_second(tmp_path, capsys, clock):
    with_bar(tmp_path)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[A-Z]", "", capsys.readouterr().out))
    for source in ("normal", "nine"):
        shown = [line for line in lines if line.startswith(f"{source}: ")]
        rates = [re.findall(r"(\d+) images/s", line) for line in shown if "images/s" in line]
        # 12 images in batches of 5, 5 and 2; the clock is half a second further whenever it is read
        assert [rate for (rate,), _ in itertools.groupby(rates)] == ["10", "8"]
        assert "3/3" in next(line for line in shown if " 8 images/s" in line)
        assert "images/s" not in shown[0]


def test_training_shows_images_per_second_and_no_version_number(tmp_path, capsys):
    bar = ImageProgressBar()
    sources = data(train=DigitsSource([0, 1], "train"), batch_size=50)
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[bar], accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False,
        logger=pl.loggers.CSVLogger(tmp_path), log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task(), datamodule=sources)
    text = capsys.readouterr().out
    assert re.search(r"images/s=\d+", text)
    assert "train/accuracy=" in text
    assert "v_num" not in text


def test_it_can_be_switched_off(tmp_path, capsys):
    assert with_bar(tmp_path, refresh_rate=0).is_disabled
    assert "images/s" not in capsys.readouterr().out
