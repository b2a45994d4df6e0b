"""The bar names the source that is probed and counts images, not batches; in a pipe, lines take its place."""

import io
import itertools
import re
import sys
import time

import lightning.pytorch as pl
import pytest
from small_experiment import data, probe, task, trained_data

from lightning_gradood.core import ProgressLines
from lightning_gradood.extraction import ImageProgressBar, callbacks


class Clock:
    """A clock that advances by half a second whenever it is read: twice for the reading of a batch, once for its rate."""

    now = 0.0
    monotonic = time.monotonic

    def perf_counter(self):
        self.now += 0.5
        return self.now


def test_a_terminal_is_shown_each_source_with_images_per_second(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(callbacks, "time", Clock())
    probe(tmp_path, task(), data(), callbacks=[ImageProgressBar()], enable_progress_bar=True)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[A-Z]", "", capsys.readouterr().out))
    for source in ("normal", "nine"):
        shown = [line for line in lines if line.startswith(f"{source}: ")]
        rates = [re.findall(r"(\d+) images/s", line) for line in shown if "images/s" in line]
        # 5, 10 and 12 images after 0.5, 2 and 3.5 seconds
        assert [rate for (rate,), _ in itertools.groupby(rates)][-3:] == ["10", "5", "3"]
        assert "3/3" in next(line for line in shown if " 3 images/s" in line)


def test_a_pipe_gets_a_line_for_each_source_and_nothing_where_it_is_switched_off(tmp_path, capsys):
    for refresh_rate, sources in ((1, ["reading normal", "reading nine"]), (0, [])):  # quick: the last line alone
        bar = ImageProgressBar(refresh_rate=refresh_rate)
        probe(tmp_path / str(refresh_rate), task(), data(), callbacks=[bar], enable_progress_bar=True)
        text = capsys.readouterr().out
        lines = [line for line in text.splitlines() if "images/s" in line]
        assert [line.partition(":")[0] for line in lines] == sources
        assert all(re.search(r"100 % \(3/3 batches\), \d+ s, \d+ images/s$", line) for line in lines)
        assert "\r" not in text
        assert bar.is_disabled is (not refresh_rate)


@pytest.mark.parametrize("terminal", [True, False])
def test_training_shows_images_per_second_and_no_version_number(tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[ImageProgressBar()], accelerator="cpu", enable_checkpointing=False,
        logger=pl.loggers.CSVLogger(tmp_path), log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task(), datamodule=trained_data(batch_size=50))
    text = capsys.readouterr().out
    assert "v_num" not in text
    if terminal:
        assert re.search(r"images/s=\d+", text)
        assert "train/accuracy=" in text
    else:
        line = r"^epoch (\d)/2: .*train/accuracy \d\.\d{3}.*, \d+ images/s$"
        assert re.findall(line, text, re.MULTILINE) == ["1", "2"]
        assert "\r" not in text


def test_lines_come_once_for_each_percent_and_not_more_often_than_asked():
    quick, slow = io.StringIO(), io.StringIO()
    for stream, seconds in ((quick, 0.0), (slow, 3600.0)):
        lines = ProgressLines("reading x", 1000, "images", stream, seconds=seconds)
        for _ in range(1000):
            lines.advance(note="fast")
    assert [int(line.split()[2]) for line in quick.getvalue().splitlines()] == list(range(1, 101))
    assert re.fullmatch(r"reading x: 100 % \(1000/1000 images\), \d+ s, fast\n", slow.getvalue())
