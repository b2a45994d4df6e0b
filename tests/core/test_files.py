"""Files appear whole or not at all, a failed write is a sentence, and what would explode once parsed is refused before."""

import errno
import itertools
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from asserts import assert_refused

from lightning_gradood.core import (
    Unparsable,
    Unwritable,
    atomic_write,
    check_writable,
    hold,
    parse_json,
    read_json,
    read_text,
    read_yaml,
)

WORDS = "`--run_dir` should be a place that can be written. Got "


def write(path, size=10):
    with atomic_write(path) as file:
        file.write(b"x" * size)


def test_what_is_in_the_way_is_named(tmp_path, fixed):
    for name in ("in the way", "fixed"):
        (tmp_path / name).write_text("")
    for name in ("folder", "locked"):
        (tmp_path / name / "b").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    fixed(tmp_path / "fixed")
    fixed(tmp_path / "locked")
    rows = [
        (tmp_path / "in the way" / "a", "File exists"), (tmp_path / "folder", "Is a directory"),
        (tmp_path / ("a" * 300), "File name too long"), (Path("/proc/nowhere/a"), "No such file or directory"),
        (tmp_path / "fixed", "Operation not permitted"), (tmp_path / "locked" / "new" / "a", "Operation not permitted"),
    ]  # fmt: skip
    assert_refused(
        *((lambda path=path: write(path), f"{WORDS}{path}: {words}. Make it one, or") for path, words in rows),
        (
            lambda: check_writable(tmp_path / "locked", "--cache_dir"),
            "`--cache_dir` should be a place that can be written",
        ),
        (lambda: hold(tmp_path / "locked" / "run").__enter__(), "Operation not permitted"),
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    for call, number in itertools.product(("fsync", "replace"), (errno.ENOSPC, errno.EROFS, errno.EIO)):
        error = OSError(number, os.strerror(number))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, Mock(side_effect=error))
            with pytest.raises(Unwritable, match=re.escape(error.strerror)):
                write(tmp_path / "a")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def laughs(levels=9, form="[{}]"):
    """Nested lists of ten aliases each: 10^levels values in a few hundred bytes."""
    rows = ["a0: &a0 {x: 1, y: lol}"]
    for level in range(1, levels):
        rows.append(f"a{level}: &a{level} {form.format(', '.join([f'*a{level - 1}'] * 10))}")
    return "\n".join(rows)


ALIASES, DEEP, LARGE = "its aliases expanded", "nested more than 64 deep", "more than 2 MB"
BOMBS = [
    (laughs(), ALIASES), (laughs(form="{{<<: [{}]}}"), ALIASES), (f"[{'a,' * 900_000}]", ALIASES),
    ("lightning: &a [1, 2, 3, *a]", ALIASES),
    *((start * 10**5, DEEP) for start in ("[", "{a: ", "- ", "? ")), ("a" * 10**7, LARGE),
]  # fmt: skip


@pytest.fixture
def parse(tmp_path):
    """What a YAML file with this text holds."""

    def parse(text):
        (tmp_path / "x.yaml").write_text(text)
        return read_yaml(tmp_path / "x.yaml")

    return parse


@pytest.mark.timeout(60)  # each takes less than a second; without the limits minutes, or all memory
def test_what_would_explode_is_refused_before_it_is_built(parse):
    for text, words in BOMBS:
        with pytest.raises(Unparsable, match=words):
            parse(text)
    assert len(parse(f"[{', '.join(f'n{i:05d}' for i in range(21_000))}]")) == 21_000, "names of ImageNet-21k"
    for text in ("[" * 10**5, '{"a":' * 10**5, "1" * 5000, "", "nope"):
        with pytest.raises(Unparsable):
            parse_json(text)


def test_files_are_read_up_to_their_limit_only(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(10**12)  # without taking room
    for read in (read_text, read_yaml, read_json):
        with pytest.raises(Unparsable, match=r"more than \d+ MB"):
            read(path)
    path.write_bytes(b"\xff\xfe")
    for place, words in ((path, "no text in UTF-8"), (tmp_path, "a folder"), ("/dev/zero", "pipe, socket or device")):
        with pytest.raises(Unparsable, match=words):
            read_text(place)
    path.write_text("\ufeff[1]")
    assert read_yaml(path) == read_json(path) == [1]
