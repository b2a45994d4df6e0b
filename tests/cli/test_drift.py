"""The verb `drift`: a table, a figure, and exit code 4 beyond the alarm."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import all_refused, called, refused, write_digits

from lightning_gradood.guard import Guard
from lightning_gradood.metrics import DriftTest
from lightning_gradood.records import write_rows
from lightning_gradood.report import DriftStream, ScoredImages

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
    assert list(Path(".").glob("*.png")) == []  # of which nobody asked for one
    code, *_ = called(["drift", f"usual.{ending}", f"shifted.{ending}", "--figure", "drift.png"], capsys)
    assert code == 0  # no alarm was asked for
    with Image.open("drift.png") as figure:
        assert figure.width > 600


def test_scores_are_compared_with_those_of_the_same_guard_alone(run, capsys):
    write_digits(Path("photos"), [0, 1, 9], "all")
    called(["score", "--guard", str(run), "photos", "--output", "new.parquet"], capsys)
    new, own = ["drift", "new.parquet", "--guard"], str(run / "guard_scores.parquet")
    for words, number in (([*new, str(run)], 8), ([*new, str(run / "guard")], 8), (["drift", own, "new.parquet"], 4)):
        code, out, err = called(words, capsys)
        assert (code, err) == (0, "")
        assert out.splitlines()[2].split()[1] == str(number)  # normal images of `val`, or of `test`
    write("unnamed.csv", range(10))
    assert "unnamed.csv does not say which guard gave its scores" in called(["drift", own, "unnamed.csv"], capsys)[2]
    Guard.load(run).with_threshold(0.5).save("same")
    assert called([*new, "same"], capsys)[0] == 0  # no score depends on the threshold
    recalibrated = Guard.load(run)
    about = {name: getattr(recalibrated.about, name)[1:] for name in ("calibration", "calibration_classes")}
    recalibrated.about = replace(recalibrated.about, **about)
    recalibrated.save("another")
    other = [*new, "another"]
    all_refused(
        [
            (other, "`new.parquet` should hold scores of the guard of `another`, "),
            ([*other, "--sequential", "state.json"], "Scores of different guards cannot be compared"),
            (
                ["drift", str(run / "scores.parquet"), "new.parquet"],
                "Got those of a run's detectors; its guard's are in",
            ),
        ],
        capsys,
    )


def test_what_cannot_be_compared_is_refused_in_a_sentence(capsys):
    write("usual.csv", range(10))
    for name, text in {"text.csv": "a,b\n1,2\n", "broken.parquet": "PAR1", "notes.txt": "a", "old.png": "old"}.items():
        Path(name).write_text(text)
    write_rows([], {"score": float, "flagged": bool, "prediction": str}, Path("none.parquet"))
    rows = [
        ([], "`drift` should have usual scores to compare with. Got usual.csv alone. Add --guard GUARD."),
        (["nowhere.csv"], "`nowhere.csv` should be a table, .parquet, .csv, .jsonl. Got no such file."),
        (["text.csv"], "`text.csv` should be a table that `score` has written. Got one without `score`"),
        (["broken.parquet"], "`broken.parquet` should be a readable table. Got "),
        (["notes.txt"], "`notes.txt` should end in .parquet, .csv, .jsonl."),
        (["none.parquet"], "Both tables should hold scored images. Got 10 in the reference and 0 new ones."),
        (
            ["usual.csv", "--alarm", "2"],
            "`--alarm` should be at least 0 and below 1, as it is a distance. Got `--alarm 2.0`.",
        ),
        (["usual.csv", "--alarm", "nan"], "`--alarm` should be a number. Got nan."),
        (["usual.csv", "--figure", "old.png"], "Got `--figure old.png`, which exists. Add --overwrite."),
        (["usual.csv", "--figure", "old.png/a.png"], "`--figure` should be a place that can be written."),
    ]
    sequential = ["new.csv", "--sequential", "state.json"]
    write("new.csv", range(5))
    write("other.csv", range(11))
    called(["drift", "usual.csv", *sequential], capsys)
    Path("bad.json").write_text('{"reference": 1}')
    rows += [
        (["new.csv", "new.csv"], "Several tables, and `--false_alarm`, should stand with `--sequential STATE`."),
        ([*sequential, "--alarm", "0.1"], "`--sequential` should stand without `--alarm`."),
        (
            [*sequential, "--false_alarm", "0.1"],
            "should stay as the stream began. Got 0.1 for state.json, which began with 0.01",
        ),
        (
            ["new.csv", "--sequential", "bad.json"],
            "should be the state of a stream. Got bad.json: 'tables'. Name a new file",
        ),
        (["old.csv", *sequential], "`old.csv` should be a table, .parquet, .csv, .jsonl. Got no such file."),
        (["text.csv", *sequential], "`text.csv` should be a table that `score` has written. Got 'score' in it."),
    ]
    rows = [("usual.csv", *row) for row in rows] + [
        ("other.csv", sequential, "should go on with the scores it began with.")
    ]
    all_refused([(["drift", reference, *words], sentence) for reference, words, sentence in rows], capsys)


def test_a_stream_is_followed_from_call_to_call_and_its_alarm_stays(capsys):
    rng = np.random.default_rng(0)
    for name, scores in (
        ("usual", rng.normal(size=300)),
        ("monday", rng.normal(size=80)),
        ("tuesday", rng.normal(3, size=60)),
    ):
        write(f"{name}.csv", scores)
    words = ["drift", "usual.csv", "--sequential", "state.json"]  # the tables need not stand together
    code, out, _ = called([*words, "monday.csv", "--false_alarm", "0.001"], capsys)
    assert (code, "80 new images, 80 in all, against 300 usual ones" in out, "alarm at 10^3.00" in out) == (
        0,
        True,
        True,
    )
    code, out, _ = called([*words, "monday.csv", "tuesday.csv"], capsys)
    alarm = json.loads(Path("state.json").read_text())["alarm"]
    assert 80 < alarm < 120
    assert (code, "taken before: monday.csv" in out, f"drifted, by image {alarm}." in out) == (4, True, True)
    assert "60 new images, 140 in all" in out
    code, out, _ = called([*words, "tuesday.csv", "--figure", "evidence.png"], capsys)
    assert "figure: evidence.png" in out
    axes = DriftStream(ScoredImages.of_table(Path("usual.csv")), Path("state.json")).figure().axes[0]
    evidence, line, raised = axes.lines
    assert (len(evidence.get_xdata()), raised.get_xdata()[0]) == (140, alarm)
    assert int(np.argmax(evidence.get_ydata() >= line.get_ydata()[0])) == alarm - 1
    assert (code, "ALARM" in out, f"The alarm was raised at image {alarm}." in out) == (4, False, True)


def test_a_guards_scores_are_followed_on_standard_input_until_the_guard_changes(run, capsys, monkeypatch):
    guard = run / "guard"
    write_digits(Path("photos"), [0, 1, 9], "all")
    _, scored, _ = called(["score", "--guard", str(guard), "photos"], capsys)
    words = ["drift", "--guard", str(guard), "-", "--sequential", "state.json", "--false_alarm", "0.4"]
    monkeypatch.setattr("sys.stdin", io.StringIO(scored))
    code, out, _ = called(words, capsys)
    state, number = json.loads(Path("state.json").read_text()), scored.count("\n") - 1
    expected = DriftTest(Guard.load(guard).calibration, 0.4).after(
        [float(row["score"]) for row in csv.DictReader(io.StringIO(scored))]
    )
    assert (state["images"], state["alarm"], state["largest"]) == (number, expected.alarm, expected.largest)
    assert (code, out.startswith("ALARM")) == ((4, True) if expected.alarm else (0, False))
    changed = [line.split(",") for line in scored.splitlines()]
    changed[3][7] = "energy@0123456789ab"
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(",".join, changed))))
    assert "Got those of energy@0123456789ab." in refused(words, capsys)
    assert json.loads(Path("state.json").read_text())["images"] == number + 2  # all before the other guard's
    write("usual.csv", range(10))  # which does not name its guard
    monkeypatch.setattr("sys.stdin", io.StringIO(scored))
    _, _, said = called(["drift", "usual.csv", "-", "--sequential", "other.json"], capsys)
    assert said.count("does not say which guard gave its scores") == 1, "and not for every row"
