"""The verb `score`: the scores of `detect` for image files, in three formats, on any number of processes, or a sentence."""

import csv
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from programs import Program
from tiny import all_refused, called, write_digits

from lightning_gradood.core import encode
from lightning_gradood.guard import Guard
from lightning_gradood.metrics import discoveries
from lightning_gradood.networks import CentreSquare
from lightning_gradood.records import read_rows
from lightning_gradood.report import Run

PLAIN = ["score", "serve", "export", "drift", "compare", "configs", "dashboard"]
COLUMNS = ["path", "prediction", "probability", "score", "p_value", "flagged", "error", "guard"]


@pytest.fixture
def score(run):
    """The words of a `score` with the finished run's guard, beside `photos`, a folder of digits that it does not know."""
    write_digits(Path("photos"), [9], "all")
    return ["score", "--guard", str(run / "guard")]


def test_scores_are_those_of_detect_to_the_last_bit(run, score, capsys, monkeypatch):
    files = write_digits(Path("known"), [0, 1, 2])
    about = json.loads((run / "guard/guard.json").read_text())
    assert about["trained_on"] == "normal"
    splits = json.loads((run / "splits.json").read_text())["sources"]["normal"]
    split_of = {name: split for split, names in splits.items() for name in names}
    normal = sorted(split_of)
    chosen = [str(files[name.rpartition("/")[2]]) for name in normal]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(chosen).encode())))
    code, out, err = called([*score, "-"], capsys)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == chosen
    held = [float(row["score"]) for row, name in zip(rows, normal, strict=True) if split_of[name] == "val"]
    assert sorted(held) == about["calibration"]


def test_the_command_that_a_run_prints_scores_its_samples_as_the_run_did(run, capsys):
    words = shlex.split(Run.read(run).guard.command(run))[3:]
    code, out, err = called(words, capsys)
    assert code == 0, err
    rows, own = list(csv.DictReader(io.StringIO(out))), read_rows(run / "guard_scores.parquet")
    found, known = Counter(), Counter()
    for row in rows:
        found[Path(row["path"]).parent.name, f"{float(row['score']):.4g}", row["flagged"]] += 1
    for source, split, score, flagged in zip(*map(own.get, ("source", "split", "score", "flagged")), strict=True):
        known[source, f"{score:.4g}", str(flagged)] += split == "test"
    assert found.total() == 3 * 4
    assert found == +known
    assert {*own["guard"]} == {row["guard"] for row in rows}


def test_the_three_formats_hold_the_same_whatever_stands_in_the_folder(score, capsys):
    digit = next(Path("photos").iterdir()).read_bytes()
    Path(os.fsdecode(b"photos/caf\xe9.png")).write_bytes(digit)
    Path("photos/broken.png").write_text("no image")
    Path("photos/notes.txt").touch()
    Path("photos/gone.png").symlink_to("nowhere.png")
    os.mkfifo("photos/pipe.png")
    tables = []
    for ending in ("parquet", "csv", "jsonl"):
        code, out, err = called([*score, "photos", "--output", f"scores.{ending}"], capsys)
        assert (code, out) == (3, "")
        assert f"scores: scores.{ending}" in err
        words = ("folders: passed over ", "1 .txt", "links that lead nowhere", "pipes, sockets or devices")
        assert [word for word in words if word not in err] == []
        tables.append(read_rows(Path(f"scores.{ending}")))
    assert [list(table) for table in tables] == [COLUMNS] * 3
    for name in ("path", "score", "flagged"):
        assert tables[0][name] == tables[1][name] == tables[2][name]
    assert r"photos/caf\xe9.png" in tables[0]["path"]
    (broken,) = [row for row, error in enumerate(tables[0]["error"]) if error]
    assert tables[0]["path"][broken] == "photos/broken.png"
    assert tables[0]["score"][broken] is None
    assert [set(table["guard"]) for table in tables] == [{Guard.load(score[-1]).about.identity}] * 3
    types = [str(kind) for kind in pq.read_schema("scores.parquet").types]
    assert types == ["string", "string", "double", "double", "double", "bool", "string", "string"]


def test_the_summary_counts_and_says_what_chance_would_give(score, capsys):
    code, out, err = called([*score, "photos", "--false_positive_rate", "0.34"], capsys)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    flagged = sum(row["flagged"] == "True" for row in rows)
    assert flagged == sum(float(row["p_value"]) <= 0.34 for row in rows)
    assert f"{len(rows)} images scored: {flagged} flagged, {100 * flagged / len(rows):.1f} % [" in err
    assert f"if all were normal, expect at most {len(rows) * 3 / 9:.0f} false alarms, 33.3 %." in err
    assert f"{len(rows)} flagged, 100.0 %" in called([*score, "photos", "--threshold=-inf"], capsys)[2]


def test_alarms_are_bounded_by_class_or_among_the_flagged(score, capsys):
    expected = list(csv.DictReader(io.StringIO(called([*score, "photos", "--false_positive_rate", "0.4"], capsys)[1])))
    code, out, err = called([*score, "photos", "--false_positive_rate", "0.4", "--by_class"], capsys)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    guard = Guard.load(score[-1]).with_false_positive_rate(0.4).with_class_thresholds()
    cuts = [guard.class_thresholds.of(int(row["prediction"])) for row in rows]
    assert [row["flagged"] for row in rows] == [
        str(float(row["score"]) > cut) for row, cut in zip(rows, cuts, strict=True)
    ]
    assert [row["p_value"] for row in rows] == [row["p_value"] for row in expected]
    assert re.findall(r"predicted \d: \d+ of \d+ flagged, threshold .*, of \d images", err)
    code, out, err = called([*score, "photos", "--false_discovery_rate", "0.3"], capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    chosen = discoveries([float(row["p_value"]) for row in rows], 0.3).tolist()
    assert [row["flagged"] for row in rows] == [str(one) for one in chosen]
    least = math.ceil(len(rows) / (0.3 * 9))
    assert f"{sum(chosen)} flagged, of which at most 30 % are expected to be normal. With 8 " in err
    assert f"none or at least {least} are flagged." in err


def test_what_cannot_be_done_is_refused_in_a_sentence(score, capsys):
    Path("notes").mkdir()
    Path("notes/a.txt").touch()
    Path("old.csv").write_text("old")
    rows = [
        (["nowhere"], "`score` should be given files or folders that exist. Got `nowhere`."),
        (["notes"], "`score` should find image files. Got none in notes. There: passed over 1 .txt. Name others."),
        (
            ["photos", "--false_positive_rate", "1.5"],
            "`--false_positive_rate` should be a number above 0 and below 1. Got 1.5.",
        ),
        (["photos", "--false_positive_rate", "0.001"], "should have at least 999 images"),
        (["photos", "--by_class"], "`--by_class` should have at least 4 calibration images of a predicted class"),
        (["photos", "--by_class", "--threshold", "1"], "`--by_class` and `--threshold` should not be given together."),
        (["photos", "--device", "cuda:77"], "should be a device of this machine. Got `--device cuda:77`"),
        (["--explain", "nowhere"], "folders that exist. Got `nowhere`."),  # which is no number of images
        (["photos", "--processes", "0"], "`--processes` should be a number above 0. Got 0."),
        (["photos", "--output", "scores.txt"], "should end in .parquet, .csv, .jsonl. Got `--output scores.txt`."),
        (["photos", "--output", "old.csv/scores.csv"], "`--output` should be a place that can be written."),
        (["no*", "--output", "old.csv", "--overwrite"], "`score` should find image files."),
        (["photos", "--outptu", "scores.csv"], "Got `outptu`. Did you mean `output`?"),
        (["photos", "--guard", "nowhere"], "`--guard` should be a folder with a guard.json"),
    ]
    all_refused([([*score, *words], sentence) for words, sentence in rows], capsys)


def test_a_reader_that_has_enough_ends_it_quietly(score):
    script = f"{sys.executable} -m lightning_gradood {' '.join(score)} photos photos photos photos | head -2"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True)
    assert ended.stdout.startswith("path,")
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_explanations_are_columns_and_figures(score, capsys):
    Path("photos", "broken.png").write_text("no image")
    code, _, err = called([*score, "photos", "--output", "scores.parquet", "--explain", "2"], capsys)
    assert code == 3, err
    table = read_rows(Path("scores.parquet"))
    for value, baseline, path, told in zip(
        *map(table.get, ("score", "usual_score", "path", "explanation")), strict=True
    ):
        assert (value is None) == (told is None) == (path == "photos/broken.png")
        if told:
            parts = json.loads(told)
            assert len(parts) == 11
            sizes = [abs(parts[name]) for name in parts if name != "others"]
            assert sizes == sorted(sizes, reverse=True)
            assert sum(parts.values()) == pytest.approx(value - baseline, rel=1e-3, abs=1e-3)
    figures = sorted(Path("scores").iterdir())
    assert [path.name[:4] for path in figures] == ["001_", "002_"]
    with Image.open(figures[0]) as picture:
        assert picture.width > 500


DEPENDENCIES = {  # by their import names; scipy.stats takes as long as half of torch
    *(
        "torch",
        "torchvision",
        "lightning",
        "jsonargparse",
        "jinja2",
        "tabulate",
        "omegaconf",
        "torchmetrics",
        "numpy",
        "scipy",
    ),
    *(
        "sklearn",
        "pyarrow",
        "matplotlib",
        "safetensors",
        "filelock",
        "joblib",
        "PIL",
        "advertorch",
        "pytorch_ood",
        "wandb",
    ),
    "scipy.stats",
}
MAY_IMPORT = {"torch", "jsonargparse", "numpy", "scipy", "pyarrow", "safetensors", "filelock", "joblib", "PIL"}
FIRST_WORDS = [
    *([verb, "--help"] for verb in [*PLAIN, "fit", "benchmark"]),
    *(["configs"], ["detct"], ["--nope"], ["help"], ["fit", "--confg", "a"], ["detect", "--data"]),
]


def test_scoring_imports_no_lightning_and_first_words_not_even_torch(run):
    write_digits(Path("photos"), [9], "all")
    guard = Guard.load(run)
    guard.about = replace(guard.about, transform=encode(CentreSquare(8)))  # one of torchvision would import it
    guard.save("guard")
    script = (
        "import contextlib, sys\nfrom lightning_gradood.cli import main\n"
        f"for words in {FIRST_WORDS}:\n"
        "    with contextlib.suppress(SystemExit): main(words)\n"
        "loaded = ['torch' in sys.modules]\n"
        "main(['score', '--guard', 'guard', 'photos', '--output', 'scores.csv'])\n"
        "names = {name.split('.')[0] for name in sys.modules} | {name for name in sys.modules if name == 'scipy.stats'}\n"
        f"print(loaded, sorted(names & {DEPENDENCIES - MAY_IMPORT}))"
    )
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[False] []", ended.stderr


NUMBERS = ("probability", "score", "p_value")


def write_many(number):
    """Write digits, a damaged file before them and one of another size; return how many files there are."""
    for path in list(write_digits(Path("many"), [0, 1, 2]).values())[number:]:
        path.unlink()
    Path("many/000.png").write_bytes(b"no image")
    Image.new("L", (30, 20)).save("many/001.png")
    return number + 2


def test_verdicts_are_those_of_one_process(score, capsys):
    expected = write_many(23)
    words = [*score, "many", "--batch_size", "4", "--false_positive_rate", "0.4", "--by_class"]
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
    write_many(100)
    files = [str(path) for path in sorted(Path("many").iterdir())] * 500
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
        assert last.startswith("error: `--processes 2` should be few enough for this machine")
    assert all(map(ended, workers))
    assert not Path("scores.csv").exists()
