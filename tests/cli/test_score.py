"""The verb `score`: the scores of `detect` for image files, in three formats, with sentences for what is wrong."""

import csv
import errno
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from photos import write_digits
from PIL import Image
from tiny import refused, snapshot

from lightning_gradood.cli import main
from lightning_gradood.cli.plain import call
from lightning_gradood.cli.score import _SPELLING, Request
from lightning_gradood.records import read_columns, read_rows

PLAIN = ["score", "drift", "compare", "configs", "dashboard"]
COLUMNS = ["path", "prediction", "probability", "score", "p_value", "flagged", "error"]


def called(words, capsys):
    """Run a verb; its exit code, standard output and standard error."""
    capsys.readouterr()
    code = 0
    try:
        main(words)
    except SystemExit as leaving:
        code = leaving.code
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def guard(run):
    """The folder of the finished run's guard, beside `photos`, a folder of digits that it does not know."""
    write_digits(Path("photos"), [9], "all")
    return str(run / "guard")


def test_scores_are_those_of_detect_to_the_last_bit(run, guard, capsys, monkeypatch):
    files = write_digits(Path("known"), [0, 1, 2])
    about = json.loads(Path(guard, "guard.json").read_text())
    assert about["trained_on"] == "normal"
    splits = json.loads((run / "splits.json").read_text())["sources"]["normal"]
    split_of = {name: split for split, names in splits.items() for name in names}
    normal = sorted(split_of)
    chosen = [str(files[name.rpartition("/")[2]]) for name in normal]
    Path("list.txt").write_text("\n".join(chosen) + "\n")
    with Path("list.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, out, err = called(["score", "--guard", guard, "-"], capsys)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == chosen
    held = [float(row["score"]) for row, name in zip(rows, normal, strict=True) if split_of[name] == "val"]
    assert sorted(held) == about["calibration"]


def test_the_three_formats_hold_the_same(guard, capsys):
    Path("photos", "broken.png").write_text("no image")
    tables = []
    for ending in ("parquet", "csv", "jsonl"):
        code, out, err = called(["score", "--guard", guard, "photos", "--output", f"scores.{ending}"], capsys)
        assert (code, out) == (3, "")
        assert f"scores: scores.{ending}" in err
        tables.append(read_rows(Path(f"scores.{ending}")))
    assert [list(table) for table in tables] == [COLUMNS] * 3
    assert tables[0]["score"] == tables[1]["score"] == tables[2]["score"]
    assert tables[0]["flagged"] == tables[1]["flagged"] == tables[2]["flagged"]
    (broken,) = [row for row, error in enumerate(tables[0]["error"]) if error]
    assert tables[0]["path"][broken] == "photos/broken.png"
    assert tables[0]["score"][broken] is None
    types = [str(kind) for kind in pq.read_schema("scores.parquet").types]
    assert types == ["string", "string", "double", "double", "double", "bool", "string"]


def test_the_summary_counts_and_says_what_chance_would_give(guard, capsys):
    code, out, err = called(["score", "--guard", guard, "photos", "--false_positive_rate", "0.34"], capsys)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    flagged = sum(row["flagged"] == "True" for row in rows)
    assert flagged == sum(float(row["p_value"]) <= 0.34 for row in rows)
    assert f"{len(rows)} images scored: {flagged} flagged, {100 * flagged / len(rows):.1f} % [" in err
    assert f"of normal images at most {len(rows) * 3 / 9:.0f}, 33.3 %, are expected." in err
    _, out, err = called(["score", "--guard", guard, "photos", "--threshold=-inf"], capsys)
    assert f"{len(rows)} flagged, 100.0 %" in err


def test_what_cannot_be_done_is_refused_in_a_sentence(guard, capsys):
    for name in ("empty", "notes"):
        Path(name).mkdir()
    Path("notes/a.txt").touch()
    Path("old.csv").write_text("old")
    rows = [
        (["nowhere"], "`score` should be given files or folders that exist. Got `nowhere`."),
        (["empty"], "`score` should find image files. Got none in empty."),
        (["notes"], "`score` should find image files. Got none in notes. There: passed over 1 .txt. Name others."),
        (["photos", "--false_positive_rate", "1.5"], "`--false_positive_rate`: Not of type OpenUnitInterval"),
        (["photos", "--false_positive_rate", "0.001"], "should have at least 999 images"),
        (["photos", "--false_positive_rate", "0.1", "--threshold", "1"], "should not be given together"),
        (["photos", "--threshold", "nan"], "`--threshold`: Not of type Score: nan does not conform"),
        (["photos", "--threshold", "high"], "`--threshold`: Not of type Score: could not convert"),
        (["photos", "--device", "cuda:77"], "should be a device of this machine. Got `--device cuda:77`"),
        (
            ["photos", "--batch_size", "0"],
            "`--batch_size`: Not of type PositiveInt: does not conform to restriction v>0",
        ),
        (
            ["photos", "--processes", "0"],
            "`--processes`: Not of type PositiveInt: 0 does not conform to restriction v>0",
        ),
        (["photos", "--max_megapixels", "0"], "`--max_megapixels`: Not of type PositiveFloat: 0 does not conform"),
        (["photos", "--explain", "-1"], "`--explain`: Not of type NonNegativeInt: -1 does not conform"),
        (["photos", "--output", "scores.txt"], "should end in .parquet, .csv, .jsonl. Got `--output scores.txt`."),
        (["photos", "--output", "empty.csv", "--explain", "1"], "Got `--output empty`, which exists. Add --overwrite."),
        (["photos", "--output", "old.csv"], "Got `--output old.csv`, which exists. Add --overwrite."),
        (["photos", "--output", "old.csv/scores.csv"], "`--output` should be a place that can be written."),
        (["no*", "--output", "old.csv", "--overwrite"], "`score` should find image files."),
        (["photos", "--outptu", "scores.csv"], "Got `outptu`. Did you mean `output`?"),
        (["photos", "--guard", "nowhere"], "`--guard` should be a folder with a guard.json"),
    ]
    before = snapshot(Path("."))
    for words, sentence in rows:
        message = refused(["score", "--guard", guard, *words], capsys)
        assert sentence in message, f"{words}: {message}"
    assert "arguments are required: guard." in refused(["score", "photos"], capsys)
    assert snapshot(Path(".")) == before


def test_flags_are_spelt_as_ever():
    def parsed(*words):
        return call("score", Request, ["--guard", "g", *words], "", **_SPELLING)

    assert parsed("1", "null", "[a]", "-").images == ["1", "null", "[a]", "-"]
    given = parsed("--overwrite", "a.png", "b.png", "--trust", "one", "--trust=two", "--threshold=-inf", "--explain")
    assert (given.images, given.overwrite, given.trust) == (["a.png", "b.png"], True, ["one", "two"])
    assert (given.threshold, given.explain, parsed("--explain", "3").explain) == (-math.inf, 8, 3)
    assert (parsed().explain, parsed().trust, parsed().images) == (None, [], [])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_an_existing_output_is_replaced_on_request_and_only_as_a_whole(guard, ending, capsys, monkeypatch):
    output = Path(f"scores.{ending}")
    output.write_text("old")
    words = ["score", "--guard", guard, "photos", "--output", str(output), "--overwrite"]

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("lightning_gradood.core.files.os.fsync", full)
        assert "No space left on device. Free some space, or name another, and run" in refused(words, capsys)
    assert output.read_text() == "old"
    assert not list(Path().glob(".scores*"))
    assert called(words, capsys)[0] == 0
    assert list(read_rows(output)) == COLUMNS


def test_a_reader_that_has_enough_ends_it_quietly(guard):
    script = f"{sys.executable} -m lightning_gradood score --guard {guard} photos photos photos photos | head -2"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True)
    assert ended.stdout.startswith("path,")
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_explanations_are_columns_and_figures(guard, capsys):
    Path("photos", "broken.png").write_text("no image")
    code, _, err = called(["score", "--guard", guard, "photos", "--output", "scores.parquet", "--explain", "2"], capsys)
    assert code == 3, err
    table = read_columns(Path("scores.parquet"))
    names = [name for name in table if name.startswith("contribution/")]
    assert names
    for row, score in enumerate(table["score"]):
        if score is None:
            assert table["path"][row] == "photos/broken.png"
            continue
        total = sum(table[name][row] for name in names)
        assert total == pytest.approx(score - table["baseline"][row], rel=1e-4, abs=1e-4)
    figures = sorted(path.name for path in Path("scores").iterdir())
    assert len(figures) == 2
    assert figures[0].startswith("001_")
    with Image.open(Path("scores", figures[0])) as picture:
        assert picture.width > 500


def test_scoring_imports_no_lightning_and_help_not_even_torch(guard):
    script = (
        "import contextlib, sys\nfrom lightning_gradood.cli import main\n"
        f"for words in {[[verb, '--help'] for verb in PLAIN]}:\n"
        "    with contextlib.suppress(SystemExit): main(words)\n"
        "loaded = ['torch' in sys.modules]\n"
        f"main({['score', '--guard', guard, 'photos', '--output', 'scores.csv']})\n"
        "print(loaded, sorted({name.split('.')[0] for name in sys.modules} & {'lightning', 'wandb', 'torchmetrics'}))"
    )
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[False] []", ended.stderr


def test_whatever_stands_in_a_folder_is_a_row_or_counted(guard, capsys):
    Path("tree/sub.png").mkdir(parents=True)
    for path in list(write_digits(Path("tree/digits"), [9]).values())[3:]:
        path.unlink()
    Path("tree/notes.txt").touch()
    Path("tree/.DS_Store").touch()
    Path("tree/gone.png").symlink_to("nowhere.png")
    Path("tree/up").symlink_to(".")
    os.mkfifo("tree/pipe.png")
    Path("tree/odd.dds").write_bytes(b"DDS |" + bytes(200))
    Path(os.fsdecode(b"tree/caf\xe9.png")).write_bytes(next(Path("tree/digits").iterdir()).read_bytes())
    for output in ("a.parquet", "b.csv", "c.jsonl"):
        code, _, err = called(["score", "--guard", guard, "tree", "--output", output, "--explain", "1"], capsys)
        assert code == 3, err
        rows = read_rows(Path(output))
        wrong = {path: error for path, error in zip(rows["path"], rows["error"], strict=True) if error}
        assert list(wrong) == ["tree/odd.dds"]
        assert "should be a readable image" in wrong["tree/odd.dds"]
        assert r"tree/caf\xe9.png" in rows["path"]
        assert "folders: passed over " in err
        for words in ("1 .txt", "links that lead nowhere", "pipes, sockets or devices", "names that start with a dot"):
            assert words in err
    assert called(["score", "--guard", guard, "tree/pipe.png"], capsys)[0] == 3


def test_a_turned_photo_is_scored_upright_and_a_large_one_once_the_limit_is_raised(guard, capsys):
    path = next(Path("photos").iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    _, out, _ = called(["score", "--guard", guard, str(path), "turned.png"], capsys)
    upright, turned = csv.DictReader(io.StringIO(out))
    assert upright["score"] == turned["score"]
    Image.new("RGB", (1500, 1000)).save("large.png")
    code, out, _ = called(["score", "--guard", guard, "large.png", "--max_megapixels", "1"], capsys)
    assert code == 3
    assert "Got 1500 × 1000, 1.5 megapixels, larger than this limit. Scale it down, or raise --max_megapixels." in out
    assert called(["score", "--guard", guard, "large.png", "--max_megapixels", "2"], capsys)[0] == 0
