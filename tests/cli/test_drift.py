"""The verb `drift`: a table, a figure, and exit code 4 beyond the alarm."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import all_refused, called, refused

from lightning_gradood.records import write_columns, write_rows

TYPES = {"path": str, "prediction": str, "score": float, "flagged": bool, "error": str}


def write(path, scores, prediction="cat"):
    """Write a table as `score` does with a threshold of 2, with one file that could not be scored."""
    usual = {"prediction": prediction, "error": None}
    rows = [usual | {"path": f"{row}.png", "score": float(s), "flagged": bool(s > 2)} for row, s in enumerate(scores)]
    bad = dict.fromkeys(TYPES) | {"path": "bad.png", "error": "unreadable"}
    write_rows([*rows, bad], TYPES, Path(path))


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_shifted_scores_raise_the_alarm_and_equal_or_few_ones_do_not(ending, capsys):
    rng = np.random.default_rng(0)
    usual, fresh, shifted = rng.normal(size=400), rng.normal(size=300), rng.normal(0.7, size=300)
    for name, scores in (("usual", usual), ("fresh", fresh), ("shifted", shifted), ("few", [0.9, 0.8])):
        write(f"{name}.{ending}", scores)
    said = {
        name: called(["drift", f"usual.{ending}", f"{name}.{ending}", "--alarm", "0.1"], capsys)[:2]
        for name in ("fresh", "few", "shifted")
    }
    assert {name: (code, "ALARM: the distance 0." in out) for name, (code, out) in said.items()} == {
        "fresh": (0, False), "few": (0, False), "shifted": (4, True),
    }  # fmt: skip
    assert "predicted cat" in said["shifted"][1]
    assert f"{100 * np.mean(shifted > 2):.1f} %" in said["shifted"][1]
    with Image.open("shifted_drift.png") as figure:
        assert figure.width > 600
    code, *_ = called(["drift", f"usual.{ending}", f"shifted.{ending}", "--figure", "again.png"], capsys)
    assert code == 0  # no alarm was asked for


def test_a_runs_scores_are_a_reference(run, capsys):
    write("new.parquet", np.random.default_rng(0).normal(size=50), prediction="0")
    words = ["drift", str(run / "scores.parquet"), "new.parquet"]
    assert "Got None. Choose among mlp." in refused(words, capsys)
    code, out, _ = called([*words, "--detector", "mlp"], capsys)
    assert code == 0
    assert out.splitlines()[2].split()[:3] == ["all", "4", "50"]  # normal images of `test`, each once


def test_what_cannot_be_compared_is_refused_in_a_sentence(capsys):
    write("usual.csv", range(10))
    for name, text in {"text.csv": "a,b\n1,2\n", "broken.parquet": "PAR1", "notes.txt": "a", "old.png": "old"}.items():
        Path(name).write_text(text)
    write_columns(Path("none.parquet"), {"score": [], "flagged": [], "prediction": []})
    rows = [
        ([], "the following arguments are required: new."),
        (["nowhere.csv"], "`nowhere.csv` should be a table of scores. Got no such file."),
        (["text.csv"], "`text.csv` should be a table that `score` or `detect` has written. Got one without `score`"),
        (["broken.parquet"], "`broken.parquet` should be a readable table. Got "),
        (["notes.txt"], "`notes.txt` should end in .parquet, .csv, .jsonl."),
        (["none.parquet"], "Both tables should hold scored images. Got 10 in the reference and 0 new ones."),
        (["usual.csv", "--alarm", "2"], "`--alarm` should be at least 0 and below 1. Got `--alarm 2.0`."),
        (["usual.csv", "--alarm", "nan"], "`--alarm`: Expected a <class 'float'>; Given value: nan."),
        (["usual.csv", "--figure", "old.png"], "Got `--figure old.png`, which exists. Add --overwrite."),
        (["usual.csv", "--figure", "old.png/a.png"], "`--figure` should be a place that can be written."),
    ]
    all_refused([(["drift", "usual.csv", *words], sentence) for words, sentence in rows], capsys)
