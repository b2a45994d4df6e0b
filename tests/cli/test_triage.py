"""`score --triage` and `refit`: a page and a table of flagged images, marks, and a guard that knows them."""

import csv
import re
from pathlib import Path

import pytest
from tiny import all_refused, called, snapshot, write_digits

from lightning_gradood.core import Refusal
from lightning_gradood.guard import Guard, Marks
from lightning_gradood.report import read_marks


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows, **marks):
    """Write a table of marks with those of a person, by what stands in the path, or for all images of a group."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        for row in rows:
            mark = [
                mark for words, mark in marks.items() if words in row["path"] or row["path"] + row["group"] == words
            ]
            table.writerow(row | {"mark": mark[0] if mark else row["mark"]})
    return str(path)


def test_flagged_images_are_marked_and_become_known(run, capsys):
    nines, usual = (write_digits(Path(name), digits) for name, digits in (("nines", [9]), ("usual", [0, 1, 2])))
    Path("usual/broken.png").write_text("no image")
    guard, words = str(run / "guard"), ["nines", "usual", "--output", "scores.csv", "--triage", "out"]
    code, _, err = called(["score", "--guard", guard, *words], capsys)
    assert code == 3
    assert f"refit --guard {guard} --marked out/marks.csv --output NEW" in err
    scored, table, page = rows_of("scores.csv"), rows_of("out/marks.csv"), Path("out/triage.html").read_text()
    flagged = {str(Path(row["path"]).absolute()): row for row in scored if row["flagged"] == "True"}
    listed = [row for row in table if row["path"] != "*" and row["group"] != "0"]
    assert sorted(row["path"] for row in listed) == sorted(flagged)
    assert all(row["score"] == flagged[row["path"]]["score"] for row in listed)
    groups = [row for row in table if row["path"] == "*"]
    assert [int(row["images"]) for row in groups[:-1]] == [
        sum(one["group"] == row["group"] for one in listed) for row in groups[:-1]
    ]
    assert (groups[-1]["group"], groups[-1]["mark"], groups[-1]["images"]) == (
        "0", "normal", str(len(nines) + len(usual) - len(flagged)),
    )  # fmt: skip
    assert len(re.findall(r'<h2 id="\d+">Group', page)) == len(groups) - 1
    assert page.count("data:image/png") >= min(len(flagged), 24)

    before, marked = snapshot(Path(guard)), write("marked.csv", table, nines="nine", usual="normal")
    code, out, err = called(["refit", "--guard", guard, "--marked", marked, "--output", "new"], capsys)
    assert code == 0, err
    assert "As all flagged images are marked, " in out
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["normal,", "nine", "normal"]
    assert snapshot(Path(guard)) == before
    new = Guard.load("new")
    assert new.about.trained_on == "nine"
    assert called(["score", "--guard", "new", "nines", "--triage", "again"], capsys)[0] == 0
    (whole, *_) = rows_of("again/marks.csv")
    assert "nine " in whole["reason"]  # the part that knows it

    rows = [
        (
            ["--guard", guard, "--marked", "out/marks.csv", "--output", "other"],
            "should have marks: `normal`, or an anomaly's",
        ),
        (
            ["--guard", guard, "--marked", marked, "--output", "new"],
            "`--output` should be a new file. Got `--output new`",
        ),
        (
            ["--guard", guard, "--marked", "scores.csv", "--output", "other"],
            "should be a table with the columns path and mark",
        ),
        (["--guard", guard, "--marked", "nowhere.csv", "--output", "other"], "Got no such file."),
    ]
    next(iter(nines.values())).unlink()
    rows.append((["--guard", guard, "--marked", marked, "--output", "other"], "that are gone, the first `"))
    all_refused([(["refit", *words], sentence) for words, sentence in rows], capsys)
    all_refused([(["score", "--guard", guard, "usual", "--triage", "out"], "`--triage` should be a new file.")], capsys)


TABLES = [  # group, path, mark and images of each row; what is read of them
    ([("1", "*", "smoke", 2), ("1", "a", "", ""), ("1", "b", "normal", "")], Marks({"a": "smoke", "b": "normal"}, [])),
    ([("1", "*", "smoke", 2), ("1", "a", "", ""), ("1", "b", "-", "")], Marks({"a": "smoke"})),
    ([("1", "b", " Normal ", ""), ("1", "*", "fog", 1), ("2", "*", "", 1), ("2", "c", "", "")], Marks({"b": "normal"})),
    ([("1", "a", "fog", ""), ("0", "*", "normal", 9), ("0", "c", "", ""), ("0", "d", "", "")],
     Marks({"a": "fog"}, ["c", "d"], 9)),
    ([("1", "a", "fog", ""), ("0", "*", "", 9), ("0", "c", "", ""), ("0", "d", "smoke", "")],
     Marks({"a": "fog", "d": "smoke"}, [], 9)),
    ([("1", "a", "fog", ""), ("1", "b", "", ""), ("0", "*", "normal", 9), ("0", "c", "", "")], Marks({"a": "fog"})),
    ([("1", "a", "-", ""), ("1", "b", "fog", ""), ("0", "*", "normal", 9), ("0", "c", "", "")], Marks({"b": "fog"})),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "expected"), TABLES)
def test_marks_of_groups_and_images(rows, expected):
    Path("marks.csv").write_text(
        "\n".join(",".join(map(str, row)) for row in [("group", "path", "mark", "images"), *rows])
    )
    assert read_marks(Path("marks.csv")) == expected


def test_a_table_of_ones_own_needs_paths_and_marks_alone():
    Path("own.csv").write_text("path,mark\na.png,3\nb.png,\n")
    assert read_marks(Path("own.csv")) == Marks({"a.png": "3"})
    Path("own.csv").write_text("path;mark\na.png;normal\n")
    with pytest.raises(Refusal, match=r"separated by commas\. Got `--marked own.csv` with path;mark"):
        read_marks(Path("own.csv"))
