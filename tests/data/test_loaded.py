"""A loaded source: decoded once or on demand to the same images, under a digest that follows them; and augmentation."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from lightning_gradood.core import Refusal
from lightning_gradood.data import (
    FolderSource,
    Limits,
    Listing,
    LoadedSource,
    Outputs,
    RandomCropFlip,
    Source,
    open_source,
)
from lightning_gradood.networks import CentreSquare


def load(root, transform=None, in_memory=True, name="here", **options):
    return LoadedSource(name, FolderSource(root).open(), transform, memory_limit=2**30 * in_memory, **options)


@pytest.fixture
def root(image_folder):
    return image_folder("photos", {"a": 3, "b": 4})


class Halve:
    def __call__(self, image):
        return v2.functional.pil_to_tensor(image) / 510

    def __repr__(self):
        return "Halve()"


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_batch_has_the_images_labels_and_rows_asked_for(root, in_memory, monkeypatch):
    with Image.open(Path(root, "b", "002.png")) as image:
        expected = v2.functional.pil_to_tensor(image)
    for transform, dtype in ((None, torch.uint8), (Halve(), torch.float32)):
        source = load(root, transform, in_memory)
        images, labels, rows = source.__getitems__([5, 0])
        assert source.in_memory is in_memory
        assert (images.shape, images.dtype) == ((2, 3, 8, 8), dtype)
        assert (labels.tolist(), labels.dtype, rows.tolist(), rows.dtype) == ([1, 0], torch.int64, [5, 0], torch.int64)
        assert torch.equal(images[0], expected if transform is None else expected / 510)
    assert source.ids[5] == "here/b/002.png"
    part = load(root, Halve(), in_memory, rows=[1, 4])
    assert (part.ids, part.num_classes) == (["here/a/001.png", "here/b/001.png"], 2)
    assert torch.equal(part.images([1]), source.images([4]))
    size, listing = 7 * 3 * 8 * 8, FolderSource(root).open()
    for transform, limit, kept in ((None, size, True), (None, size - 1, False), (Halve(), size, False)):
        assert LoadedSource("x", listing, transform, memory_limit=limit).in_memory is kept
    if in_memory:
        monkeypatch.setattr(type(source._listing), "read", None)  # it was read once
        assert torch.equal(source.images([5]), images[:1])


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_digest_follows_keys_labels_pixels_and_transform_but_not_the_name(root, in_memory):
    def digest(root=root, transform=None, **options):
        return load(root, transform, in_memory, **options).digest()

    digests = [digest(), digest(transform=Halve()), digest(transform=v2.Resize([4, 4])), digest(rows=[0, 1])]
    assert digests[0] == digest() == digest(name="there")
    Path(root, "b", "003.png").rename(Path(root, "b", "004.png"))
    digests.append(digest())
    Path(root, "b").rename(Path(root, "0"))
    digests.append(digest())
    Image.new("RGB", (8, 8)).save(Path(root, "a", "001.png"))
    digests.append(digest())
    assert len(set(digests)) == 7
    by_label = [open_source("x", Fixed(["a", "b"], labels)).digest() for labels in ([0, 1], [1, 0], [0, 1])]
    assert by_label[0] == by_label[2] != by_label[1]


def test_a_transform_that_is_random_or_gives_no_image_is_refused(root):
    torch.manual_seed(0)
    for transform, words in (
        (lambda image: image.size, "uint8 or float. Got tuple for image `here/a/000.png`"),
        (v2.RandomHorizontalFlip(), "`transform` should be deterministic"),
    ):
        with pytest.raises(Refusal, match=re.escape(words)):
            load(root, transform)
    assert load(root, lambda image: image).digest()
    with pytest.raises(Refusal, match=r"`transform` should have a repr .* at 0x.*`__repr__`.*`limits\.memory_gib`"):
        load(root, lambda image: image, in_memory=False).digest()


@pytest.mark.parametrize("in_memory", [True, False])
def test_another_size_is_refused_by_name_with_the_fix(root, in_memory):
    Image.new("RGB", (9, 8)).save(Path(root, "b", "002.png"))
    words = r"\[3, 8, 8\] torch.uint8 as `here/a/000.png`. Got `here/b/002.png` with \[3, 8, 9\].*v2\.Resize"
    with pytest.raises(Refusal, match=words):
        load(root, in_memory=in_memory).images([4, 5])
    assert load(root, v2.Resize([4, 4]), in_memory).images([4, 5]).shape == (2, 3, 4, 4)


class Fixed(Source):
    def __init__(self, keys, labels=None, classes=()):
        self.keys, self.labels, self.classes = keys, labels or [-1] * len(keys), list(classes)

    def open(self):
        return Blank(self.keys, self.labels, self.classes)


class Blank(Listing):
    def read(self, row):
        return Image.new("RGB", (8, 8))

    def fingerprint(self, row):
        return b""


def test_a_limit_takes_a_seeded_subset_in_proportion_and_in_order():
    source = Fixed([f"{row:02d}" for row in range(90)], [0] * 60 + [1] * 30)
    named = [(0, "x"), (0, "x"), (1, "x"), (0, "y")]
    one, same, other, elsewhere = (open_source(name, source, limits=Limits(9, seed=seed)) for seed, name in named)
    assert one.labels.tolist() == [0] * 6 + [1] * 3
    assert one.ids == same.ids == sorted(one.ids) != other.ids
    assert [name[2:] for name in elsewhere.ids] != [name[2:] for name in one.ids]
    assert len(open_source("x", source, limits=Limits(91))) == 90


def test_labels_become_those_of_the_classifier_by_name():
    source = Fixed(["a", "b", "c"], [1, 0, -1], ["cat", "dog"])
    loaded = open_source("x", source, outputs=Outputs.of(["dog", "emu", "cat"]), flag="train")
    assert (loaded.labels.tolist(), loaded.num_classes) == ([0, 2, -1], 3)
    for opened, words in [
        (Fixed(["a", "b", "b"]), "`keys` should be unique in a source. Got `x/b` twice"),
        (Fixed([]), "`x` should hold images. Got `x` with none"),
    ]:
        with pytest.raises(Refusal, match=words):
            open_source("x", opened)


def test_augmentation_gives_each_image_a_window_of_its_padded_self():
    images = torch.rand(20, 2, 6, 5)
    for image, result in zip(F.pad(images, [2] * 4), RandomCropFlip(2)(images), strict=True):
        windows = [image[:, row : row + 6, column : column + 5] for row in range(5) for column in range(5)]
        assert any(torch.equal(result, one) or torch.equal(result.flip(-1), one) for one in windows)
    one, images = torch.rand(1, 3, 4), torch.rand(1000, 1, 4, 4, dtype=torch.float64)
    assert len(torch.unique(RandomCropFlip(1)(one.expand(2000, -1, -1, -1)), dim=0)) == 2 * 9
    results = RandomCropFlip(padding=0)(images)
    mirrored = (results == images.flip(-1)).flatten(1).all(1)
    assert 400 < mirrored.sum() < 600
    assert torch.equal(results[~mirrored], images[~mirrored])
    assert torch.equal(RandomCropFlip(padding=0, flip=False)(images), images)


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_that_cannot_be_read_are_listed_or_left_out_and_transparent_ones_are_counted(root, in_memory, said):
    Image.new("RGBA", (8, 8)).save(Path(root, "b", "000.png"))
    for name in ("a/000.png", "b/003.png"):  # the first of all sets the shape of others
        Path(root, name).write_bytes(b"")
    limits = Limits(memory_gib=int(in_memory))
    with pytest.raises(Refusal, match=r"a/000.png` should be .* Of 7 .* 2 cannot be read: a/000.png, b/003.png\. R"):
        open_source("normal", root, limits=limits)
    left = open_source("normal", root, limits=limits, skip=True)
    assert (len(left.ids), left.images(range(5)).shape) == (5, (5, 3, 8, 8))
    assert said[0] == "normal: 2 of 7 images cannot be read and are left out: a/000.png, b/003.png."
    assert [line.partition(";")[0] for line in said[1:]] == ["normal: 1 of 5 images are transparent"] * in_memory


def test_a_square_is_cut_from_the_middle():
    wide = Image.new("RGB", (12, 4))
    wide.paste("red", (4, 0, 8, 4))
    for picture in (wide, v2.functional.pil_to_tensor(wide)):
        found = CentreSquare(2)(picture)
        found = found if isinstance(found, torch.Tensor) else v2.functional.pil_to_tensor(found)
        assert found.shape == (3, 2, 2)
        assert found[0].min() > 200
