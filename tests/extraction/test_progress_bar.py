"""The bar names the source that is probed and counts images, not batches; in a pipe, lines take its place."""

import io
import re
import sys
import time
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from small_experiment import data, probe, tables, task, trained_data

from lightning_gradood.core import ProgressLines
from lightning_gradood.extraction import ImageProgressBar, estimates
from lightning_gradood.perturbations import FGSM
from lightning_gradood.probes import LogitsProbe


def test_a_terminal_is_shown_each_source_and_a_pipe_a_line_for_each_unless_it_is_switched_off(
    tmp_path, capsys, monkeypatch
):
    for refresh_rate, terminal in ((1, False), (0, False), (1, True)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        bar = ImageProgressBar(refresh_rate=refresh_rate)
        probe(tmp_path / f"{refresh_rate}{terminal}", task(), data(), callbacks=[bar], enable_progress_bar=True)
        text = capsys.readouterr().out
        assert bar.is_disabled is (not refresh_rate)
        assert ("\r" in text) is terminal
        lines = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[A-Z]", "", text)) if "images/s" in line]
        if terminal:
            for source in ("normal", "nine"):
                assert any(re.search(rf"^{source}: 100%.* 3/3 .*\d+ images/s", line) for line in lines)
        else:
            last = {line.partition(":")[0]: line for line in lines}  # a busy machine shows more of each source
            assert [*last] == ["reading normal", "reading nine"][: 2 * refresh_rate]
            assert all(re.search(r"100 % \(12/12 images\), \d+ s, \d+ images/s$", line) for line in last.values())


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


def test_lines_come_at_once_and_for_each_percent_and_not_more_often_than_asked():
    quick, slow = io.StringIO(), io.StringIO()
    for stream, seconds in ((quick, 0.0), (slow, 3600.0)):
        lines = ProgressLines("reading x", 1000, "images", stream, seconds=seconds)
        for _ in range(1000):
            lines.advance(note="fast")
    assert [int(line.split()[2]) for line in quick.getvalue().splitlines()] == list(range(101))
    assert re.fullmatch(r"reading x: 100 % \(1000/1000 images\), \d+ s, fast\n", slow.getvalue())


def test_a_line_comes_every_ten_seconds_where_a_percent_takes_longer(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    lines = ProgressLines("reading x", 100_000, "images", stream)
    for now[0] in (0.5, 4.0, 11.0, 15.0, 22.0):
        lines.advance(9)
    assert re.findall(r"0 % \((\d+)/100000 images\), (\d+) s", stream.getvalue()) == [("18", "4"), ("36", "15")]


def test_how_long_reading_takes_is_told_before_it_begins_unless_there_is_little(tmp_path, monkeypatch, capsys):
    now, model = [0.0], task()
    monkeypatch.setattr(estimates, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    model.network.register_forward_pre_hook(lambda _, images: now.__setitem__(0, now[0] + len(images[0])))
    for name, attacks, limit, said in (
        ("few", None, 20, []),
        ("clean", None, 60, ["about 2 minutes of reading: 120 images (50 % of it for normal)."]),  # a second for each
        (
            "made",
            {"up": FGSM()},
            50,
            ["about 3 minutes of reading: 100 images and 50 made of normal ones (50 % of it for up)."],
        ),
        ("made", {"up": FGSM()}, 50, []),  # all is there
    ):
        callback = probe(tmp_path / name, model, data(limit=limit, attacks=attacks), [LogitsProbe()])
        assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("about")] == said
        assert all(len(records) == limit for records in tables(callback).values())


def test_reading_is_timed_once_for_all_sources_that_are_read_alike(tmp_path, monkeypatch, capsys):
    seen, told, model = [0], [], task()
    model.network.register_forward_pre_hook(lambda _, images: seen.__setitem__(0, seen[0] + len(images[0])))
    monkeypatch.setattr(estimates, "say", lambda line: told.append(seen[0]))
    monkeypatch.setattr(estimates, "_MEASURED", 0.0)  # one image of each is made, for one gradient
    for number in (1, 5):
        attacks = {f"f{one}": FGSM(eps=one / 9) for one in range(1, number + 1)}
        probe(tmp_path / str(number), model, data(limit=40, attacks=attacks))
        seen[0] = 0
    assert told[1] - told[0] <= 4 * 4
