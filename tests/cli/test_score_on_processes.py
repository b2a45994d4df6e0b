"""`score --processes`: the verdicts of one process in their order, and no process left behind."""

import csv
import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from programs import Program
from tiny import called, write_digits

NUMBERS = ("probability", "score", "p_value")


@pytest.fixture
def score(run):
    """The words of a `score` with the finished run's guard."""
    return ["score", "--guard", str(run / "guard")]


def photos(number):
    """Write digits, a damaged file before them and one of another size; return how many files there are."""
    for path in list(write_digits(Path("photos"), [0, 1, 2]).values())[number:]:
        path.unlink()
    Path("photos/000.png").write_bytes(b"no image")
    Image.new("L", (30, 20)).save("photos/001.png")
    return number + 2


def test_verdicts_are_those_of_one_process(score, capsys):
    expected = photos(23)
    words = [*score, "photos", "--batch_size", "4"]
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


def ended(process):
    """Whether a process has ended, within ten seconds."""
    deadline = time.monotonic() + 10
    while (runs := Path(f"/proc/{process}").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "of_first", "code"),
    [(signal.SIGKILL, False, 2), (signal.SIGTERM, True, 143), (signal.SIGKILL, True, -9)],
    ids=["kill_worker", "term_first", "kill_first"],
)
def test_none_outlives_another(score, number, of_first, code):
    photos(100)
    files = [str(path) for path in sorted(Path("photos").iterdir())] * 500
    words = [sys.executable, "-m", "lightning_gradood", *score, *files, "--processes", "2", "--batch_size", "8"]
    program = Program([*words, "--output", "scores.csv"])
    assert program.stderr.readline().startswith("scoring: ")  # both have begun, or will
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    workers = [int(one) for one in children if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(program.pid if of_first else workers[1], number)
    _, err = program.communicate(timeout=60)
    assert program.returncode == code
    assert "Traceback" not in err
    if not of_first:
        last = err.splitlines()[-1]
        assert last.startswith("error: `--processes 2` should be processes that load the guard")
    assert all(map(ended, workers))
    assert not Path("scores.csv").exists()
