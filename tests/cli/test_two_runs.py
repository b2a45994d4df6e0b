"""Two runs that start at once: on one cache both end as one alone, in one folder the second is refused."""

import sys
from pathlib import Path

from programs import Program
from tiny import FILE, IMAGES, results, table

from lightning_gradood.cli import main


def start(run, *more):
    """A `detect` in a process of its own."""
    words = ["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), *more]
    command = [sys.executable, "-m", "lightning_gradood", *words]
    return Program(command)


def test_two_runs_on_one_cache_give_the_table_of_one_and_leave_whole_records(run, probed, capsys):
    both = [start(run, "--cache_dir", "shared", "--run_dir", name) for name in ("first", "second")]
    ended = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    main(["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--cache_dir", "alone"])
    expected = table(capsys.readouterr().out)
    assert sum(probed) == IMAGES
    assert [table(out) for out, _ in ended] == [expected, expected]
    keys = [results(Path(name))["provenance"]["records"] for name in ("first", "second")]
    assert keys[0] == keys[1]
    probed.clear()
    main(["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--cache_dir", "shared"])
    assert not probed, "the records of both are whole"
    assert table(capsys.readouterr().out) == expected


def test_of_two_runs_in_one_folder_the_second_is_refused_and_names_the_first(run):
    both = [start(run, "--run_dir", "same", "--cache_dir", name) for name in ("one", "two")]
    ended = [process.communicate(timeout=200) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], ended
    refused, winner = ended[codes.index(2)][1], both[codes.index(0)]
    assert f"process {winner.pid}" in refused
    assert "Traceback" not in refused
    assert results(Path("same"))["outcomes"]
