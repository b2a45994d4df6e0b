"""Lists of image files as sources, and what headers of files say about sources."""

import os
import re

import pytest
from PIL import Image

from lightning_gradood.core import Refusal
from lightning_gradood.data import FolderSource, ImageDataModule, ListSource, file_differences, open_source


def listed(folder, *lines, images=()):
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "list.txt").write_text("\n".join(lines))
    return ListSource(str(folder), str(folder / "list.txt"))


def test_a_list_gives_files_in_its_order_with_their_labels(tmp_path):
    images = ["cifar10/test/airplane/0001.png", "my photo 1.png", "tin/a.png"]
    lines = [f"{images[2]} -1", "", f"./{images[0]} 7", images[1], f"{images[0]} 7"]
    listing = listed(tmp_path, *lines, images=images).open()
    assert (listing.keys, listing.labels, listing.classes) == ([images[2], images[0], images[1]], [-1, 7, -1], [])
    assert listing.read(1).size == (4, 4)
    assert listing.path(1) == str(tmp_path / images[0])
    assert "1 lines name a file that another line names" in listing.notes[0]


def test_a_long_list_reads_each_folder_once_and_asks_for_no_single_file(tmp_path, monkeypatch):
    read, names = [], [f"cifar10/{row % 100}/{row}.png" for row in range(100_000)]

    def listdir(folder):
        read.append(folder)
        return [f"{row}.png" for row in range(int(folder.name), 100_000, 100)]

    source = listed(tmp_path, *(f"{name} {row % 10}" for row, name in enumerate(names)))
    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(os, "stat", lambda path, _stat=os.stat: _stat(path) if str(path).endswith(".txt") else 1 / 0)
    assert source.open().keys == names
    assert len(read) == 100


def test_a_list_that_does_not_fit_its_folder_or_the_outputs_is_refused_in_a_sentence(tmp_path):
    rows = [
        ([f"tin/{row}.jpg 0" for row in range(1200)], "1,200 are missing in .*: `tin/0.jpg`, `tin/1.jpg`, `tin/2.jpg`, ….*"
         "or correct `root`; of OpenOOD's lists, unpack `tin.zip` in `.*tin` "),
        (["1.jpg"], "Put them there, or correct `root`.$"),
    ]  # fmt: skip
    for lines, words in rows:
        with pytest.raises(Refusal, match=words):
            listed(tmp_path, *lines).open()
    with pytest.raises(Refusal, match=r"text file .* Got `list = nowhere.txt`, which cannot be read \(No such file"):
        ListSource(str(tmp_path), "nowhere.txt").open()
    normal = listed(tmp_path, "1.png 2", "2.png 0", images=["1.png", "2.png"])
    assert ImageDataModule(normal, classes=["cat", "dog", "cow"]).sources.normal.labels.tolist() == [2, 0]
    with pytest.raises(
        Refusal, match=r"labels below 2, the number of outputs that `data.classes` .* label 2 of `1.png`"
    ):
        _ = ImageDataModule(normal, classes=["cat", "dog"]).sources.normal


@pytest.mark.parametrize(
    ("saved", "size", "words"),
    [
        ({"format": "PNG"}, (8, 8), None),
        ({"format": "JPEG", "quality": 60}, (8, 8), r"`other` \(JPEG of quality 60, 8 × 8\)\. Detectors may"),
        ({"format": "PNG"}, (11, 11), r"`normal` \(PNG, 8 × 8\): `other` \(PNG, 11 × 11\)"),
    ],
)
def test_sources_whose_files_are_of_another_kind_are_named_with_format_quality_and_size(
    tmp_path, image_folder, saved, size, words
):
    (tmp_path / "other").mkdir()
    for row in range(3):
        Image.new("RGB", size).save(tmp_path / "other" / str(row), **saved)
        (tmp_path / "other" / str(row)).rename(tmp_path / "other" / f"{row}.png")  # a suffix may be wrong
    folders = {"normal": image_folder("normal", {".": 3}), "other": str(tmp_path / "other")}
    sources = {name: open_source(name, FolderSource(folder)) for name, folder in folders.items()}
    said = file_differences(sources)
    assert len(said) == (words is not None)
    assert words is None or re.search(words, said[0])
