"""Sources: bundled images, data sets by factory, image folders; what they list, what they read, and what they refuse."""

import functools
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from asserts import assert_refused
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch.utils.data import Dataset
from torchvision.datasets import SVHN, ImageFolder

from lightning_gradood.core import TRANSPARENT, Refusal
from lightning_gradood.data import DatasetSource, DigitsSource, FolderSource, PhotoPatches


def pixels(listing):
    return np.stack([np.asarray(listing.read(row)) for row in range(len(listing.keys))])


def test_digits_are_scikit_learn_s_in_parts_that_do_not_depend_on_the_other_digits():
    listing = DigitsSource([9, 0]).open()
    assert pixels(listing).shape == (358, 32, 32, 3)
    assert (listing.classes, listing.labels.count(0), listing.labels[:3]) == (["9", "0"], 180, [1, 0, 1])
    shrunk = pixels(DigitsSource(list(range(10))).open())[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) * 16 / 255
    assert np.corrcoef(shrunk.ravel(), load_digits().images.ravel())[0, 1] > 0.95
    every, train, test = (DigitsSource(list(range(9)), part).open() for part in ("all", "train", "test"))
    assert sorted(train.keys + test.keys) == every.keys
    assert (len(train.keys), len(test.keys)) == (970, 647)
    assert set(DigitsSource([4], "test").open().keys) <= set(test.keys)


def test_photographs_are_cut_into_patches_that_put_them_together_again():
    listing = PhotoPatches().open()
    assert len(listing.keys) == len(set(listing.keys)) == 520
    assert (listing.labels.count(0), listing.labels.count(1), listing.classes) == (260, 260, ["china", "flower"])
    whole = pixels(listing)[260:].reshape(13, 20, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(416, 640, 3)
    assert np.array_equal(whole, load_sample_image("flower.jpg")[:416, :640])
    assert pixels(PhotoPatches(size=16, scale=0.25).open()).shape == (2 * 6 * 10, 16, 16, 3)


class Items(Dataset):
    """Items as given, counting the reads."""

    def __init__(self, items, **attributes):
        vars(self).update(items=items, reads=0, **attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        self.reads += 1
        item = self.items[row]
        if isinstance(item, Exception):
            raise item
        return item


GREY, COLOUR, CLEAR = (Image.new(mode, (4, 4)) for mode in ("L", "RGB", "RGBA"))


def listed(items, **attributes):
    return DatasetSource(lambda: Items(items, **attributes)).open()


def test_images_may_be_grey_colour_or_tensors_alone_or_in_a_tuple():
    built, tensor = [], torch.zeros(3, 4, 4)
    source = DatasetSource(lambda: built.append(1) or Items([(COLOUR, 3)] * 11, classes=["cat", "dog"]))
    assert not built, "nothing is built before `open`"
    assert (source.open().keys[0], source.open().keys[-1], source.open().classes) == ("00", "10", ["cat", "dog"])
    listing = listed([(GREY, 0), [COLOUR, 1], (CLEAR, 2, "more"), tensor, (tensor,)])
    assert [listing.read(row).mode for row in range(3)] == ["L", "RGB", "RGB"]
    assert [listing.read(row).info.get(TRANSPARENT) for row in range(3)] == [None, None, True]
    assert listing.read(3) is tensor
    assert listing.labels == [0, 1, 2, -1, -1]
    same = listed([COLOUR, COLOUR.copy(), Image.new("RGB", (4, 4), "red")])
    assert same.fingerprint(0) == same.fingerprint(1) != same.fingerprint(2)


def test_labels_kept_beside_the_images_are_taken_where_they_will_do_and_read_elsewhere():
    for name, container in (("targets", list), ("labels", np.array), ("targets", torch.tensor)):
        kept = listed([(COLOUR, 9)] * 3, **{name: container([2, 0, -1000])})
        assert (kept.labels, kept.dataset.reads) == ([2, 0, -1], 0)
    items = [(COLOUR, 2), (COLOUR, torch.tensor(1)), (COLOUR, np.int64(0))]
    for attributes in (
        {},
        {"targets": [0, 1]},  # of another length
        {"targets": [[1, 0], [0, 1], [1, 1]]},  # not one a row
        {"targets": [7] * 3, "target_transform": abs},  # before their transform
    ):
        assert listed(items, **attributes).labels == [2, 1, 0], attributes
    assert listed([(COLOUR, {"boxes": []}), (COLOUR, 0.5)]).labels == [-1, -1], "no class"


def test_whatever_a_data_set_raises_when_it_is_built_or_read_is_a_refusal(tmp_path):
    def raising(error):
        def build():
            raise error

        return build

    got = f"Got `dataset = SVHN(root='{tmp_path}', split='nonsense')`: ValueError: Unknown value 'nonsense'"
    nonsense = DatasetSource(functools.partial(SVHN, root=str(tmp_path), split="nonsense"))
    truncated = listed([COLOUR, OSError("truncated")], targets=[0, 0])
    assert_refused(
        (nonsense.open, f"find its files in `{tmp_path}`, and be built with arguments that it takes. {got}"),
        *(
            (
                DatasetSource(raising(error)).open,
                f"Got `dataset = build()`: {type(error).__name__}: {words}; ",
            )
            for error, words in (
                (KeyError("a"), ".*Put its files there"),
                (AssertionError("b"), ".*Put its files there"),
                (urllib.error.URLError("no network"), "the download failed: .*no network.*Put its files there"),
                (ImportError("lmdb", name="lmdb"), ".*Install what it needs: `python -m pip install lmdb`"),
            )
        ),
        (lambda: truncated.read(1), "readable image for every row. Got `Items` failing in row 1: truncated"),
        (lambda: listed([Image.new("F", (4, 4))]).read(0), "`Items[0]` should be an image with 8 bits a channel"),
    )


def test_folders_give_sorted_classes_as_torchvision_and_relative_posix_keys(image_folder):
    root = image_folder("photos", {"dog": 2, "cat/deep": 1, ".ipynb_checkpoints": 1, "cat/.thumbnails": 1})
    Path(root, "dog", "notes.txt").write_text("hello")
    Path(root, "dog", "._000.png").write_bytes(b"macOS")
    flat, gap = image_folder("flat", {".": 3}), image_folder("gap", {"a": 1, "c": 1})
    Path(flat, "x.png").mkdir()  # a folder without images is no class of a flat folder
    Path(gap, "b").mkdir()
    loose = "2 images beside the class folders, e.g. `000.png`, have no class."
    empty = "class folders without images keep their place among the classes: `b`."
    for folder, keys, labels, classes, notes in [
        (root, ["cat/deep/000.png", "dog/000.png", "dog/001.png"], [0, 1, 1], ["cat", "dog"], None),
        (flat, ["000.png", "001.png", "002.png"], [-1] * 3, [], ()),
        (image_folder("loose", {"a": 1, ".": 2}), ["000.png", "001.png", "a/000.png"], [-1, -1, 0], ["a"], (loose,)),
        (gap, ["a/000.png", "c/000.png"], [0, 2], ["a", "b", "c"], (empty,)),
    ]:
        listing = FolderSource(folder).open()
        assert (listing.keys, listing.labels, listing.classes) == (keys, labels, classes)
        assert notes in (None, listing.notes)
    words = image_folder("words", {"wasp": 2, "ant": 1, "bee": 1})
    theirs, ours = ImageFolder(words), FolderSource(words).open()
    assert (ours.classes, ours.labels) == (theirs.classes, [label for _, label in theirs.samples])


def test_every_image_becomes_rgb_and_its_fingerprint_follows_the_file(tmp_path, image_folder):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (4, 3)).save(tmp_path / f"{mode}.png")
    assert pixels(FolderSource(str(tmp_path)).open()).shape == (3, 3, 4, 3)
    root = Path(image_folder("photos", {"a": 2}))
    listing = FolderSource(str(root)).open()
    before = listing.fingerprint(0)
    assert before == listing.fingerprint(0) != listing.fingerprint(1)
    Image.new("RGB", (8, 8)).save(root / "a" / "000.png")
    assert listing.fingerprint(0) != before


def test_folders_and_files_that_are_none_are_refused_by_name(tmp_path, image_folder):
    path = Path(image_folder("photos", {"a": 1}, size=64)) / "a" / "000.png"
    whole, listing = path.read_bytes(), FolderSource(str(path.parent.parent)).open()
    (tmp_path / "none" / "a").mkdir(parents=True)
    (tmp_path / "none" / "a" / "notes.txt").touch()
    for root, words in [
        ("nowhere/at/all", r"folder of images\. Got `root = nowhere/at/all`, which does not"),
        (tmp_path / "none" / "a" / "notes.txt", "which is not a folder"),
        ("a/1.jpg 0\n" * 1000, "Got a file with the text `a/1.jpg 0` and so on .a list of images is a ListSource"),
        (tmp_path / "none", r"hold images \(\.apng, .*with none .*root/<class>/image.* It: passed over 1 \.txt\."),
    ]:
        with pytest.raises(Refusal, match=words):
            FolderSource(str(root)).open()
    for content in (b"", whole[:500], None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(Refusal, match=f"`{re.escape(str(path))}` should be a"):
            listing.read(0)
