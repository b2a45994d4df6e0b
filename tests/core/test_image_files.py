"""Trees of files as people and systems leave them: what is found, what is passed over, and that it ends."""

import os
import socket
import time
from pathlib import Path

import pytest
from PIL import Image

from lightning_gradood.core import PassedOver, find_image_files, image_suffixes, printable, subfolders


def found(root):
    passed = PassedOver()
    return [os.path.relpath(path, root) for path in find_image_files(str(root), passed)], passed


@pytest.mark.parametrize(
    "suffix", ["gif", "jfif", "jpe", "avif", "jp2", "tga", "webp", "JPG", "bmp", "tiff", "ico", "dds"]
)
def test_suffixes_that_pillow_reads_are_images(tmp_path, suffix):
    (tmp_path / f"x.{suffix}").touch()
    assert found(tmp_path)[0] == [f"x.{suffix}"]


def test_formats_that_start_programs_or_are_no_pictures_are_not_read():
    assert not image_suffixes() & {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5"}


def test_everything_else_is_counted_in_one_line(tmp_path):
    for name in ("a.png", "b.txt", "c.TXT", "d", ".DS_Store", "Thumbs.db", "desktop.ini", "e.xyz"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a.png").touch()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    names, passed = found(tmp_path)
    assert names == ["a.png"]
    assert passed.sentence("photos") == (
        "photos: passed over 2 .txt, 2 links that lead nowhere, 1 names that start with a dot, 1 Thumbs.db, 1 __MACOSX, "
        "1 without a suffix, 1 desktop.ini, 1 .xyz."
    )


def test_many_kinds_stay_one_short_line():
    passed = PassedOver()
    for number in range(1000):
        passed.add(f"x.{number}")
    assert len(passed.sentence("photos")) < 200
    assert "and 992 others" in passed.sentence("photos")


def test_a_suffix_that_needs_a_package_names_it():
    passed = PassedOver()
    passed.add("x.HEIC")
    assert passed.sentence("photos") == "photos: passed over 1 .heic (read where pillow-heif is installed)."


def test_loops_of_links_end(tmp_path):
    for number in range(12):  # each holds links to all: 12! paths
        folder = tmp_path / f"{number:02d}"
        folder.mkdir()
        (folder / "x.png").touch()
        for other in range(12):
            (folder / f"to{other:02d}").symlink_to(tmp_path / f"{other:02d}")
        (folder / "up").symlink_to(tmp_path)
    started = time.monotonic()
    names, passed = found(tmp_path)
    assert time.monotonic() - started < 10
    assert len({os.path.realpath(tmp_path / name) for name in names}) == len(names) == 12
    assert "links to a folder that was read already" in passed.sentence("x")


def test_pipes_sockets_and_devices_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.png")
        names, passed = found(tmp_path)
    assert names == []
    assert dict(passed.counts) == {"pipes, sockets or devices": 3}


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    (tmp_path / "x.png").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png" / "y.png")
    assert found(tmp_path)[0] == ["x.png/y.png"]
    assert subfolders(str(tmp_path), PassedOver()) == ["x.png"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_counted(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert "folders that cannot be read" in found(tmp_path)[1].sentence("x")


def test_names_that_are_no_utf8_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Path(tmp_path, name).touch()
    except OSError:
        pytest.skip("this file system stores UTF-8 names only")
    assert found(tmp_path)[0] == [name]
    assert printable(name) == r"caf\xe9.png"
    assert printable("café.png") == "café.png"
