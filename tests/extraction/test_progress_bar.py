"""The bar names the source that is probed and counts images, not batches."""

import io
import itertools
import re

import lightning.pytorch as pl
import pytest
from small_experiment import data, probe, task

from lightning_gradood.core import ProgressLines
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
def terminal(monkeypatch):
    """Have the bars believe that somebody looks."""
    monkeypatch.setattr(progress, "is_terminal", lambda stream: True)


@pytest.fixture
def clock(monkeypatch):
    """Replace the time of the bars."""
    monkeypatch.setattr(progress, "time", Clock())


def with_bar(folder, **settings):
    bar = ImageProgressBar(**settings)
    probe(folder, task(), data(), callbacks=[bar], enable_progress_bar=True)
    return bar


def test_it_names_each_source_and_says_images_per_second(tmp_path, capsys, clock, terminal):
    with_bar(tmp_path)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[A-Z]", "", capsys.readouterr().out))
    for source in ("normal", "nine"):
        shown = [line for line in lines if line.startswith(f"{source}: ")]
        rates = [re.findall(r"(\d+) images/s", line) for line in shown if "images/s" in line]
        # 12 images in batches of 5, 5 and 2; the clock is half a second further whenever it is read
        assert [rate for (rate,), _ in itertools.groupby(rates)] == ["10", "8"]
        assert "3/3" in next(line for line in shown if " 8 images/s" in line)
        assert "images/s" not in shown[0]


def test_training_shows_images_per_second_and_no_version_number(tmp_path, capsys, terminal):
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


def test_a_pipe_gets_a_line_for_each_source_and_percent(tmp_path, capsys):
    bar = with_bar(tmp_path)
    text = capsys.readouterr().out
    assert "\r" not in text
    lines = [line for line in text.splitlines() if line.startswith("reading ")]
    assert [line.partition(":")[0] for line in lines] == [
        "reading normal",
        "reading nine",
    ]  # quick: the last line alone
    assert all(re.search(r"100 % \(3/3 batches\), \d+ s, \d+ images/s$", line) for line in lines)
    assert not bar.is_disabled


def test_a_pipe_gets_a_line_for_each_epoch(tmp_path, capsys):
    sources = data(train=DigitsSource([0, 1], "train"), batch_size=50)
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[ImageProgressBar()], accelerator="cpu", default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task(), datamodule=sources)
    text = capsys.readouterr().out
    assert "\r" not in text
    assert re.findall(r"^epoch (\d)/2: .*train/accuracy \d\.\d{3}.*, \d+ images/s$", text, re.MULTILINE) == ["1", "2"]


class Stream(io.StringIO):
    """A pipe."""


def test_lines_come_once_for_each_percent_and_not_more_often_than_asked():
    stream = Stream()
    lines = ProgressLines("reading x", 1000, "images", stream, seconds=0.0)
    for _ in range(1000):
        lines.advance()
    assert [int(line.split()[2]) for line in stream.getvalue().splitlines()] == list(range(1, 101))
    slow = Stream()
    lines = ProgressLines("reading x", 1000, "images", slow, seconds=3600.0)
    for _ in range(1000):
        lines.advance(note="fast")
    (line,) = slow.getvalue().splitlines()
    assert re.fullmatch(r"reading x: 100 % \(1000/1000 images\), \d+ s, fast", line)
