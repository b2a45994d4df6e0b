"""Every failed write is a sentence, and no module writes a file in another way than whole or not at all."""

import ast
import errno
import itertools
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest

import lightning_gradood
from lightning_gradood.core import Refusal, Unwritable, atomic_write, check_writable, hold, writing_refused

WORDS = r"`--run_dir` should be a place that can be written\. Got "


def write(path, size=10):
    with atomic_write(path) as file:
        file.write(b"x" * size)


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "in the way").write_text("")
    (tmp_path / "folder" / "b").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for path, words in [
        (tmp_path / "in the way" / "a", "Move away what has that name"),
        (tmp_path / "folder", "Is a directory. Move away what has that name"),
        (tmp_path / ("a" * 300), "File name too long. Give it a shorter or plainer name"),
        (Path("/proc/nowhere/a"), "See whether its disk is still there"),
        (Path("/dev/null/a"), "Move away what has that name"),
    ]:
        with pytest.raises(Unwritable, match=f"{WORDS}{path}: .*{words}"):
            write(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
    for call, number in itertools.product(("fsync", "replace"), numbers):
        error = OSError(number, os.strerror(number))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, Mock(side_effect=error))
            with pytest.raises(Unwritable, match=re.escape(error.strerror)):
                write(tmp_path / "a")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_immutable_files_and_folders_are_left_alone(tmp_path, fixed):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_text("old")
    fixed(tmp_path / "a")
    fixed(tmp_path / "folder")
    for path in (tmp_path / "a", tmp_path / "folder" / "b", tmp_path / "folder" / "new" / "b"):
        with pytest.raises(Unwritable, match=f"{WORDS}{path}: Operation not permitted. Ask for the right to write"):
            write(path)
    with pytest.raises(Unwritable, match="`--cache_dir` should be a place that can be written"):
        check_writable(tmp_path / "folder", "--cache_dir")
    for place in (tmp_path / "folder", tmp_path / "folder" / "deeper" / "run"):
        with pytest.raises(Refusal, match=f"Got .*{place}.*: Operation not permitted"), hold(place):
            pass
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "folder"]


def test_failures_of_other_files_pass_and_too_little_room_is_refused_before_the_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), atomic_write(tmp_path / "a"):
        (tmp_path / "other").read_text()
    with pytest.raises(OSError, match="cut short"), writing_refused(tmp_path, "--run_dir"):
        raise OSError("cut short")
    check_writable(tmp_path, "--cache_dir", 1)
    with pytest.raises(Unwritable, match=r"`--cache_dir` should have room for at least 1000000000000\.0 MB"):
        check_writable(tmp_path, "--cache_dir", 10**18)
    assert list(tmp_path.iterdir()) == []


WRITING = {
    "write_text", "write_bytes", "savefig", "to_parquet", "to_csv", "save_file", "savez", "savez_compressed", "tofile",
}  # fmt: skip


def test_no_module_writes_a_file_but_through_atomic_write():
    """A call whose first argument is a buffer or an open file writes no file of its own."""
    root, exempt = Path(lightning_gradood.__file__).parent, ("core/files.py", "core/locks.py", "cli/run_log.py")
    found = []
    for path in sorted(set(root.rglob("*.py")) - {root / name for name in exempt}):  # a log grows by lines
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _writes(node):
                found.append(f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert found == []


def _writes(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = ast.unparse(call.args[0]) if call.args else ""
    if name == "open":
        modes = [one.value for one in [*call.args, *(k.value for k in call.keywords)] if isinstance(one, ast.Constant)]
        return any(isinstance(mode, str) and mode[:1] in "wax" and len(mode) < 4 for mode in modes)
    return name in WRITING and first not in ("file", "buffer")
