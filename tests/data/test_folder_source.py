"""Image folders: both layouts, stable keys, and each refusal in its words."""

import re
from pathlib import Path

import pytest
from PIL import Image

from lightning_gradood.core import Refusal
from lightning_gradood.data import FolderSource


def test_class_folders_give_sorted_classes_and_relative_posix_keys(image_folder):
    root = Path(image_folder("photos", {"dog": 2, "cat/deep": 1}))
    listing = FolderSource(str(root)).open()
    assert listing.keys == ["cat/deep/000.png", "dog/000.png", "dog/001.png"]
    assert listing.labels == [0, 1, 1]
    assert listing.classes == ["cat", "dog"]


def test_a_flat_folder_has_no_classes(image_folder):
    listing = FolderSource(image_folder("flat", {".": 3})).open()
    assert (listing.keys, listing.labels, listing.classes) == (["000.png", "001.png", "002.png"], [-1] * 3, [])


def test_files_that_are_no_images_and_hidden_ones_are_passed_over(image_folder):
    root = Path(image_folder("photos", {"a": 1, ".ipynb_checkpoints": 1, "a/.thumbnails": 1}))
    (root / "a" / "notes.txt").write_text("hello")
    (root / "a" / "._000.png").write_bytes(b"macOS")
    (root / "README.md").write_text("hello")
    assert FolderSource(str(root)).open().keys == ["a/000.png"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_image_becomes_rgb(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / ("image.tif" if mode == "CMYK" else "image.png"))
    image = FolderSource(str(tmp_path)).open().read(0)
    assert (image.mode, image.size) == ("RGB", (4, 3))


def test_the_fingerprint_follows_the_file(image_folder):
    root = Path(image_folder("photos", {"a": 2}))
    listing = FolderSource(str(root)).open()
    before = listing.fingerprint(0)
    assert before == listing.fingerprint(0) != listing.fingerprint(1)
    Image.new("RGB", (8, 8)).save(root / "a" / "000.png")
    assert listing.fingerprint(0) != before


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(
        Refusal, match=r"`root` should be a folder of images\. Got `root = nowhere/at/all`, which does not"
    ):
        FolderSource("nowhere/at/all").open()


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="which is not a folder"):
        FolderSource(str(tmp_path / "file")).open()


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    with pytest.raises(
        Refusal,
        match=r"`root` should hold images \(\.apng, .*with none .*It: passed over 1 \.txt\. .*root/<class>/image\.png",
    ):
        FolderSource(str(tmp_path)).open()


def test_a_class_without_images_keeps_its_place_and_is_said(image_folder):
    root = Path(image_folder("photos", {"a": 1, "c": 1}))
    (root / "b").mkdir()
    listing = FolderSource(str(root)).open()
    assert (listing.classes, listing.labels) == (["a", "b", "c"], [0, 2])
    assert listing.notes == ("class folders without images keep their place among the classes: `b`.",)


def test_images_beside_class_folders_have_no_class_and_are_said(image_folder):
    listing = FolderSource(image_folder("photos", {"a": 1, ".": 2})).open()
    assert (listing.keys, listing.labels) == (["000.png", "001.png", "a/000.png"], [-1, -1, 0])
    assert listing.notes == ("2 images beside the class folders, e.g. `000.png`, have no class.",)


def test_folders_without_images_beside_a_flat_folder_are_no_classes(image_folder):
    root = Path(image_folder("photos", {".": 2}))
    (root / "x.png").mkdir()
    listing = FolderSource(str(root)).open()
    assert (listing.keys, listing.classes, listing.notes) == (["000.png", "001.png"], [], ())


def test_deeper_images_than_eight_bits_are_refused(tmp_path):
    Image.new("I;16", (4, 4), 40000).save(tmp_path / "deep.png")
    with pytest.raises(
        Refusal, match=r"deep\.png` should be an image with 8 bits a channel\. Got .* mode I;16, .*Scale it"
    ):
        FolderSource(str(tmp_path)).open().read(0)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_an_unreadable_image_is_refused_by_name(image_folder, content):
    path = Path(image_folder("photos", {"a": 1}, size=64)) / "a" / "000.png"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    with pytest.raises(
        Refusal, match=f"`root` should hold readable images. Got `{re.escape(str(path))}`: .*Remove that file"
    ):
        FolderSource(str(path.parent.parent)).open().read(0)


def test_a_file_that_went_away_is_refused_by_name(image_folder):
    root = Path(image_folder("photos", {"a": 1}))
    listing = FolderSource(str(root)).open()
    (root / "a" / "000.png").unlink()
    for use in (listing.read, listing.fingerprint):
        with pytest.raises(Refusal, match=r"Got `.*000\.png`: .* Remove that file"):
            use(0)
