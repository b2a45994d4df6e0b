"""Image files as people and systems leave them: what is found in a folder, and how one is decoded or refused."""

import io
import itertools
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lightning_gradood.core import (
    PassedOver,
    PixelLimit,
    Refusal,
    Unreadable,
    find_image_files,
    image_suffixes,
    read_picture,
    subfolders,
    upright,
)


def found(root):
    passed = PassedOver()
    return [os.path.relpath(path, root) for path in find_image_files(str(root), passed)], passed


def test_images_are_what_pillow_reads_and_everything_else_is_counted_in_one_line(tmp_path):
    assert {".gif", ".jfif", ".jp2", ".tga", ".jpg", ".bmp", ".tiff"} <= image_suffixes()
    assert not image_suffixes() & {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5"}, "programs, papers, films"
    for name in ("a.PNG", "b.txt", "c.TXT", "d", ".DS_Store", "Thumbs.db", "desktop.ini", "e.xyz"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a.png").touch()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    names, passed = found(tmp_path)
    assert names == ["a.PNG"]
    assert passed.sentence("photos") == (
        "photos: passed over 2 .txt, 2 links that lead nowhere, 1 names that start with a dot, 1 Thumbs.db, 1 __MACOSX, "
        "1 without a suffix, 1 desktop.ini, 1 .xyz."
    )
    many = PassedOver({f".{number}": 1 for number in range(1000)})
    assert len(many.sentence("photos")) < 200


def test_loops_of_links_end(tmp_path):
    for number in range(12):  # each holds links to all: 12! paths
        folder = tmp_path / f"{number:02d}"
        folder.mkdir()
        (folder / "x.png").touch()
        for other in range(12):
            (folder / f"to{other:02d}").symlink_to(tmp_path / f"{other:02d}")
        (folder / "up").symlink_to(tmp_path)
    names, passed = found(tmp_path)
    assert len({os.path.realpath(tmp_path / name) for name in names}) == len(names) == 12
    assert "links to a folder that was read already" in passed.sentence("x")


def test_pipes_sockets_and_devices_are_not_opened_and_folders_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.png")
        names, passed = found(tmp_path)
    assert (names, passed) == ([], {"pipes, sockets or devices": 3})
    for path in ("pipe.png", "/dev/zero", tmp_path):
        with pytest.raises(Unreadable, match="Got: it is a folder, pipe, socket or device"):
            read_picture(path)
    (tmp_path / "x.png").mkdir()
    (tmp_path / "x.png" / "y.png").touch()
    assert found(tmp_path)[0] == ["x.png/y.png"]
    assert subfolders(str(tmp_path), PassedOver()) == ["x.png"]


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
# What each value of EXIF's tag means, in NumPy's words rather than Pillow's.
TURNED = {
    1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1), 7: PIXELS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PIXELS),
}  # fmt: skip


def with_orientation(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    buffer.seek(0)
    return buffer


def test_orientation_is_applied_once():
    for form, (orientation, expected) in itertools.product(("PNG", "TIFF", "WEBP"), TURNED.items()):
        picture = read_picture(with_orientation(orientation, form), name="x")
        np.testing.assert_array_equal(np.asarray(picture), expected)
        np.testing.assert_array_equal(np.asarray(upright(picture)), expected)


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_large_image_is_refused_as_such_and_the_limit_can_be_raised_above_pillows(monkeypatch, tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 10_000)).save(path)  # of the size at which Pillow itself refuses
    with pytest.raises(Refusal) as refusal:
        read_picture(path, limit=PixelLimit(100, "--data.limits.megapixels"))
    assert str(refusal.value) == (
        f"`{path}` should have at most 100 megapixels. Got 20000 × 10000, 200 megapixels, larger than this limit. "
        "Scale it down, or raise --data.limits.megapixels."
    )
    assert not isinstance(refusal.value, Unreadable)
    path = tmp_path / "x.png"
    Image.new("1", (40, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_picture(path).size == (40, 50)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(Unreadable):
        read_picture(tmp_path / "text.png")
    with ThreadPoolExecutor(4) as pool:
        assert {picture.size for picture in pool.map(read_picture, [path] * 40)} == {(40, 50)}
    assert Image.MAX_IMAGE_PIXELS == 100  # stays as it was


def test_postscript_is_no_image(tmp_path):
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(Unreadable, match="it is no image"):  # rather than executed by Ghostscript
        read_picture(tmp_path / "x.png")
