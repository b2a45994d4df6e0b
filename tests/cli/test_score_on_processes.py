"""`score --processes`: the verdicts of one process in their order, and no process left behind."""

import csv
import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from photos import write_digits
from PIL import Image
from programs import Program
from test_score import called
from tiny import refused

from lightning_gradood.records import read_rows

NUMBERS = ("probability", "score", "p_value")


@pytest.fixture
def guard(run):
    """Return the folder of the finished run's guard."""
    return str(run / "guard")


def photos(number):
    """Write digits, a damaged file before them and one of another size; return how many files there are."""
    files = list(write_digits(Path("photos"), [0, 1, 2]).values())
    for path in files[number:]:
        path.unlink()
    Path("photos/000.png").write_bytes(b"no image")
    Image.new("L", (30, 20)).save("photos/001.png")
    return number + 2


def test_verdicts_are_those_of_one_process(guard, capsys):
    expected = photos(23)
    words = ["score", "--guard", guard, "photos", "--batch_size", "4"]
    alone, together = (called([*words, "--processes", str(one)], capsys) for one in (1, 2))
    assert alone[0] == together[0] == 3
    assert together[2].splitlines()[-1] == alone[2].splitlines()[-1]  # the summary
    rows, others = (list(csv.DictReader(io.StringIO(out))) for _, out, _ in (alone, together))
    assert len(rows) == len(others) == expected
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            if name in NUMBERS and value:
                assert float(other[name]) == pytest.approx(float(value), rel=1e-6)
            else:
                assert other[name] == value


@pytest.mark.slow
def test_threshold_trust_and_explanations_are_those_of_one_process(guard, capsys):
    photos(3)
    words = ["score", "--guard", guard, "photos", "--processes", "2", "--output", "scores.csv", "--explain", "1"]
    code, _, err = called([*words, "--trust", "tests", "--threshold=-inf"], capsys)
    assert code == 3
    assert "4 flagged, 100.0 %" in err
    rows = read_rows(Path("scores.csv"))
    assert [value is None for value in rows["baseline"]] == [True, False, False, False, False]
    assert len(list(Path("scores").iterdir())) == 1


@pytest.fixture
def under_way(guard):
    """Start a long scoring on two processes; return it, and the numbers of the two."""
    photos(100)
    files = [str(path) for path in sorted(Path("photos").iterdir())] * 500
    words = [sys.executable, "-m", "lightning_gradood", "score", "--guard", guard, *files, "--processes", "2"]
    program = Program([*words, "--batch_size", "8", "--output", "scores.csv"])
    assert program.stderr.readline().startswith("scoring: ")  # both have begun, or will
    workers = [number for number in children(program.pid) if "spawn_main" in words_of(number)]
    assert len(workers) == 2
    yield program, workers
    program.kill()
    program.communicate()


def children(parent):
    """Numbers of the processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def words_of(process):
    """Return the command line of a process."""
    return Path(f"/proc/{process}/cmdline").read_text()


def ended(process):
    """Whether a process has ended, within ten seconds."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{process}").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_it_with_a_sentence(under_way):
    program, workers = under_way
    os.kill(workers[1], signal.SIGKILL)
    _, err = program.communicate(timeout=30)
    assert program.returncode == 2
    assert err.splitlines()[-1].startswith("error: `--processes 2` should be processes that load the guard")
    assert "Traceback" not in err
    assert ended(workers[0])
    assert not Path("scores.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_none_outlives_the_first(under_way, number):
    program, workers = under_way
    program.send_signal(number)
    _, err = program.communicate(timeout=30)
    assert program.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    assert all(map(ended, workers))
    assert not Path("scores.csv").exists()


def test_the_number_is_within_limits(guard, capsys):
    for number in ("0", "257"):
        message = refused(["score", "--guard", guard, "photos", "--processes", number], capsys)
        assert message.startswith(f"`--processes` should lie between 1 and 256. Got `--processes {number}`.")
