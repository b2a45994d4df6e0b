"""Data sets by factory: what they may give, where labels come from, and what is said when their files are missing."""

import functools
import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import CIFAR10, SVHN

from lightning_gradood.core import Refusal
from lightning_gradood.data import DatasetSource
from lightning_gradood.data.dataset_refusals import BY_HAND


class Items(Dataset):
    """Items as given, counting the reads."""

    def __init__(self, items, **attributes):
        self.items = items
        self.reads = 0
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        self.reads += 1
        item = self.items[row]
        if isinstance(item, Exception):
            raise item
        return item


GREY, COLOUR, CLEAR = (Image.new(mode, (4, 4)) for mode in ("L", "RGB", "RGBA"))


def test_nothing_is_built_before_open():
    built = []
    source = DatasetSource(lambda: built.append(1) or Items([(COLOUR, 3)]))
    assert not built
    assert source.open().labels == [3]


def test_images_may_be_grey_colour_or_tensors_alone_or_in_a_tuple():
    tensor = torch.zeros(3, 4, 4)
    listing = DatasetSource(lambda: Items([(GREY, 0), [COLOUR, 1], (CLEAR, 2, "more"), tensor, (tensor,)])).open()
    assert [listing.read(row).mode for row in range(3)] == ["L", "RGB", "RGB"]
    assert listing.read(3) is tensor
    assert listing.labels == [0, 1, 2, -1, -1]


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("container", [list, np.array, torch.tensor])
def test_labels_kept_beside_the_images_are_taken_without_reading(name, container):
    dataset = Items([(COLOUR, 9)] * 3, **{name: container([2, 0, -1000])})
    assert DatasetSource(lambda: dataset).open().labels == [2, 0, -1]
    assert dataset.reads == 0


@pytest.mark.parametrize(
    "attributes",
    [{}, {"targets": [0, 1]}, {"targets": [[1, 0], [0, 1], [1, 1]]}, {"targets": [7] * 3, "target_transform": abs}],
    ids=["none", "of another length", "not one a row", "before their transform"],
)
def test_labels_are_read_where_the_kept_ones_will_not_do(attributes):
    items = [(COLOUR, 2), (COLOUR, torch.tensor(1)), (COLOUR, np.int64(0))]
    assert DatasetSource(lambda: Items(items, **attributes)).open().labels == [2, 1, 0]


def test_a_label_that_is_no_class_is_unknown():
    assert DatasetSource(lambda: Items([(COLOUR, {"boxes": []}), (COLOUR, 0.5)])).open().labels == [-1, -1]


def test_keys_are_rows_and_classes_the_data_sets_own():
    listing = DatasetSource(lambda: Items([COLOUR] * 11, classes=["cat", "dog"])).open()
    assert listing.keys[0] == "00"
    assert listing.keys[-1] == "10"
    assert listing.classes == ["cat", "dog"]


def test_the_fingerprint_follows_the_pixels():
    listing = DatasetSource(lambda: Items([COLOUR, COLOUR.copy(), Image.new("RGB", (4, 4), "red")])).open()
    assert listing.fingerprint(0) == listing.fingerprint(1) != listing.fingerprint(2)


def tiny_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Place an archive in CIFAR-10's format, unpacked; torchvision's checksums are those of the real one."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        pixels = np.random.default_rng(seed).integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, None] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})


def test_cifar10_in_place_is_read(tmp_path, monkeypatch):
    tiny_cifar10(tmp_path, monkeypatch)
    listing = DatasetSource(functools.partial(CIFAR10, root=str(tmp_path), train=True)).open()
    assert len(listing.keys) == 50
    assert listing.labels[:12] == [*range(10), 0, 1]
    assert listing.classes[3] == "class 3"
    assert listing.read(0).size == (32, 32)


@pytest.mark.parametrize(
    ("dataset", "by_hand"),
    [(CIFAR10, "Unpack `cifar-10-python.tar.gz` there"), (SVHN, "Put `train_32x32.mat` and `test_32x32.mat` there")],
)
def test_missing_files_are_refused_with_what_where_how_and_what_needs_no_download(tmp_path, dataset, by_hand):
    source = DatasetSource(functools.partial(dataset, root=str(tmp_path / "data"), download=False))
    with pytest.raises(Refusal) as refusal:
        source.open()
    message = str(refusal.value)
    assert message.startswith(f"`dataset` should find its files in `{tmp_path / 'data'}`. ")
    assert (
        f"Got `dataset = {dataset.__name__}(root='{tmp_path / 'data'}', download=False)`: Dataset not found" in message
    )
    assert by_hand in message
    assert message.endswith("; `configs/digits.yaml` needs no download.")
    assert "You can use" not in message


@pytest.mark.parametrize(
    ("split", "words"), [("nonsense", "ValueError: Unknown value 'nonsense'"), (None, "ValueError: Expected type str")]
)
def test_an_argument_that_a_dataset_refuses_is_named_with_its_words(tmp_path, split, words):
    with pytest.raises(Refusal) as refusal:
        DatasetSource(functools.partial(SVHN, root=str(tmp_path), split=split)).open()
    got = f"`dataset = SVHN(root='{tmp_path}', split={split!r})`: {words}"
    assert str(refusal.value).startswith(f"`dataset` should have arguments that it can be built with. Got {got}")


@pytest.mark.parametrize("error", [KeyError("a"), ZeroDivisionError(), AssertionError("b"), TypeError("c")])
def test_whatever_else_a_dataset_raises_is_a_refusal(error):
    def build():
        raise error

    with pytest.raises(Refusal, match=rf"Got `dataset = build\(\)`: {type(error).__name__}: "):
        DatasetSource(build).open()


def test_the_archives_of_odin_are_known_by_name():
    assert "`Imagenet_resize/Imagenet_resize/` holds" in BY_HAND["TinyImageNetResize"]
    assert "`LSUN_resize/LSUN_resize/` holds" in BY_HAND["LSUNResize"]


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no network"), FileNotFoundError("images"), ImportError("needs lmdb"), RuntimeError()],
)
def test_any_failure_to_build_is_refused_with_the_users_own_words(error):
    def build():
        raise error

    with pytest.raises(Refusal, match=r"in `/mine`.*Got `dataset = build\(\)`.*Ask Ann for the disk; "):
        DatasetSource(build, where="/mine", how="Ask Ann for the disk.").open()


def test_an_iterable_data_set_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(Refusal, match=r"should be a map-style data set with a length. Got `dataset = Stream`"):
        DatasetSource(Stream).open()


def test_an_item_that_is_no_image_is_refused_with_its_row():
    listing = DatasetSource(lambda: Items([COLOUR, {"image": COLOUR}])).open()
    with pytest.raises(Refusal, match=r"PIL images or tensors.*Got `dict` in row 1 of `Items`"):
        listing.read(1)


def test_deeper_images_than_eight_bits_are_refused():
    listing = DatasetSource(lambda: Items([Image.new("F", (4, 4))])).open()
    with pytest.raises(Refusal, match=r"`Items\[0\]` should be an image with 8 bits a channel"):
        listing.read(0)


def test_svhn_in_place_is_read(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[10, 1, 2] * 4]).T})
    monkeypatch.setitem(SVHN.split_list, "test", [None, "test_32x32.mat", None])
    listing = DatasetSource(functools.partial(SVHN, root=str(tmp_path), split="test")).open()
    assert listing.labels == [0, 1, 2] * 4
    assert np.array_equal(np.asarray(listing.read(7)), pixels[..., 7])


@pytest.mark.parametrize("error", [OSError, IndexError, NotImplementedError, EOFError])
def test_an_item_that_cannot_be_read_is_refused_with_its_row(error):
    listing = DatasetSource(lambda: Items([COLOUR, error("truncated")], targets=[0, 0])).open()
    with pytest.raises(Refusal, match=r"readable image for every row. Got `Items` failing in row 1: truncated"):
        listing.read(1)
