"""The verb `drift`: a table, a figure, and exit code 4 beyond the alarm."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_score import called
from tiny import refused

from lightning_gradood.records import row_file, write_columns

TYPES = {"path": str, "prediction": str, "score": float, "flagged": bool, "error": str}


def write(path, scores, threshold=2.0, prediction="cat"):
    """Write a table as `score` does, with one file that could not be scored."""
    with row_file(Path(path), TYPES) as file:
        for number, score in enumerate(scores):
            row = {"score": float(score), "flagged": bool(score > threshold), "prediction": prediction, "error": None}
            file.write({"path": f"{number}.png", **row})
        file.write({"path": "bad.png", "score": None, "flagged": None, "prediction": None, "error": "unreadable"})
    return path


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_shifted_scores_raise_the_alarm_and_equal_ones_do_not(ending, capsys):
    rng = np.random.default_rng(0)
    usual, fresh, shifted = rng.normal(size=400), rng.normal(size=300), rng.normal(0.7, size=300)
    for name, scores in (("usual", usual), ("fresh", fresh), ("shifted", shifted)):
        write(f"{name}.{ending}", scores)
    code, out, _ = called(["drift", f"usual.{ending}", f"fresh.{ending}", "--alarm", "0.1"], capsys)
    assert (code, "ALARM" in out) == (0, False)
    code, out, _ = called(["drift", f"usual.{ending}", f"shifted.{ending}", "--alarm", "0.1"], capsys)
    assert (code, "ALARM: the distance 0." in out) == (4, True)
    assert "predicted cat" in out
    flagged = 100 * np.mean(shifted > 2)
    assert f"{flagged:.1f} %" in out
    with Image.open("shifted_drift.png") as figure:
        assert figure.width > 600
    code, *_ = called(["drift", f"usual.{ending}", f"shifted.{ending}", "--figure", "again.png"], capsys)
    assert code == 0  # no alarm was asked for


def test_a_reader_that_has_enough_ends_it_quietly():
    write("usual.csv", np.linspace(-1, 1, 200))
    script = f"{sys.executable} -m lightning_gradood drift usual.csv usual.csv | true"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_few_images_raise_no_alarm_by_chance(capsys):
    write("usual.csv", np.linspace(-1, 1, 200))
    write("few.csv", [0.9, 0.8])
    code, out, _ = called(["drift", "usual.csv", "few.csv", "--alarm", "0.1"], capsys)
    assert code == 0
    assert "predicted" not in out.replace("predicted cat", "") or "predicted cat" not in out


def test_a_runs_scores_are_a_reference(run, capsys):
    write("new.parquet", np.random.default_rng(0).normal(size=50), prediction="0")
    words = ["drift", str(run / "scores.parquet"), "new.parquet"]
    assert "Got None. Choose among mlp." in refused(words, capsys)
    code, out, _ = called([*words, "--detector", "mlp"], capsys)
    assert code == 0
    assert out.splitlines()[2].split()[:3] == ["all", "4", "50"]  # normal images of `test`, each once


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["usual.csv"], "The following arguments are required: NEW. See --help."),
        (["usual.csv", "nowhere.csv"], "`nowhere.csv` should be a table of scores. Got no such file."),
        (
            ["usual.csv", "text.csv"],
            "`text.csv` should be a table that `score` or `detect` has written. Got one without `score`",
        ),
        (["usual.csv", "broken.parquet"], "`broken.parquet` should be a readable table. Got: "),
        (["usual.csv", "notes.txt"], "`notes.txt` should end in .parquet, .csv, .jsonl."),
        (
            ["usual.csv", "none.parquet"],
            "Both tables should hold scored images. Got 10 in the reference and 0 new ones.",
        ),
        (["usual.csv", "usual.csv", "--alarm", "2"], "`--alarm` should be at least 0 and below 1. Got `--alarm 2.0`."),
        (["usual.csv", "usual.csv", "--figure", "old.png"], "Got `--figure old.png`, which exists. Add --overwrite."),
        (["usual.csv", "usual.csv", "--figure", "old.png/a.png"], "`--figure` should be a place that can be written."),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(words, sentence, capsys):
    write("usual.csv", range(10))
    Path("text.csv").write_text("a,b\n1,2\n")
    Path("broken.parquet").write_text("PAR1")
    Path("notes.txt").write_text("a")
    Path("old.png").write_text("old")
    write_columns(Path("none.parquet"), {"score": [], "flagged": [], "prediction": []})
    before = sorted(Path().iterdir())
    assert sentence in refused(["drift", *words], capsys)
    assert sorted(Path().iterdir()) == before
    assert Path("old.png").read_text() == "old"
