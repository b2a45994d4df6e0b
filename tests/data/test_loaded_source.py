"""A loaded source: decoded once or on demand to the same images, under a digest that follows them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lightning_gradood.core import Refusal
from lightning_gradood.data import FolderSource, LoadedSource
from lightning_gradood.data.classes import Outputs
from lightning_gradood.data.datasets import SourceRows
from lightning_gradood.data.folder import Opening, refuse_other_shape
from lightning_gradood.data.source import Listing, Source, as_it_is


def load(root, transform=None, in_memory=True, **options):
    return LoadedSource("here", FolderSource(root).open(), transform, memory_limit=2**30 if in_memory else 0, **options)


@pytest.fixture
def root(image_folder):
    return image_folder("photos", {"a": 3, "b": 4})


class Halve:
    """A transform to float without an address in its repr."""

    def __call__(self, image):
        return v2.functional.pil_to_tensor(image) / 510

    def __repr__(self):
        return "Halve()"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("transform", "dtype"), [(None, torch.uint8), (Halve(), torch.float32)])
def test_a_batch_has_the_images_labels_and_rows_asked_for(root, in_memory, transform, dtype):
    source = load(root, transform, in_memory)
    images, labels, rows = source.__getitems__([5, 0])
    assert source.in_memory is in_memory
    assert (images.shape, images.dtype) == ((2, 3, 8, 8), dtype)
    assert (labels.tolist(), labels.dtype, rows.tolist(), rows.dtype) == ([1, 0], torch.int64, [5, 0], torch.int64)
    assert source.ids[5] == "here/b/002.png"
    with Image.open(Path(root, "b", "002.png")) as image:
        expected = v2.functional.pil_to_tensor(image)
    assert torch.equal(images[0], expected if transform is None else expected / 510)


def test_one_item_is_a_batch_without_its_first_axis(root):
    image, label, row = load(root)[6]
    assert (image.shape, label.item(), row.item()) == ((3, 8, 8), 1, 6)


def test_the_memory_limit_is_counted_in_bytes_of_pixels(root):
    size = 7 * 3 * 8 * 8
    listing = FolderSource(root).open()
    assert LoadedSource("here", listing, memory_limit=size).in_memory
    assert not LoadedSource("here", listing, memory_limit=size - 1).in_memory
    assert not LoadedSource("here", listing, Halve(), memory_limit=size).in_memory


def test_images_in_memory_are_read_once(root, monkeypatch):
    source = load(root)
    before = source.images(range(7))
    monkeypatch.setattr(type(source._listing), "read", None)
    assert torch.equal(source.images(range(7)), before)


@pytest.mark.parametrize("rank", [0, 1])
def test_reading_shows_its_progress_on_one_process_only(root, capsys, monkeypatch, rank):
    monkeypatch.setattr("lightning_gradood.data.datasets.rank_zero_only.rank", rank)
    load(root).images([0])
    shown = capsys.readouterr().err
    assert ("reading here: 100 %" in shown and "images)" in shown) == (rank == 0)


def test_some_rows_keep_their_numbers_in_the_source(root):
    source = load(root)
    loader = DataLoader(SourceRows(source, [6, 2, 4]), batch_size=2, collate_fn=as_it_is)
    assert [batch.rows.tolist() for batch in loader] == [[6, 2], [4]]
    assert SourceRows(source, [6, 2, 4])[1].rows.item() == 2


def test_a_source_may_take_some_rows_of_its_listing(root):
    source = load(root, rows=[1, 4])
    assert source.ids == ["here/a/001.png", "here/b/001.png"]
    assert torch.equal(source.images([1]), load(root).images([4]))
    assert source.num_classes == 2


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_digest_follows_keys_labels_pixels_and_transform_but_not_the_name(root, in_memory):
    def digest(root=root, transform=None, **options):
        return load(root, transform, in_memory, **options).digest()

    digests = [digest(), digest(transform=Halve()), digest(transform=v2.Resize([4, 4])), digest(rows=[0, 1])]
    assert digests[0] == digest()
    assert LoadedSource("b", FolderSource(root).open(), memory_limit=2**30 * in_memory).digest() == digests[0]
    Path(root, "b", "003.png").rename(Path(root, "b", "004.png"))
    digests.append(digest())
    Path(root, "b").rename(Path(root, "0"))
    digests.append(digest())
    Image.new("RGB", (8, 8)).save(Path(root, "a", "001.png"))
    digests.append(digest())
    assert len(set(digests)) == 7


def test_the_digest_follows_labels_alone():
    digests = [Opening().load("x", Fixed(["a", "b"], labels)).digest() for labels in ([0, 1], [1, 0], [0, 1])]
    assert digests[0] == digests[2] != digests[1]


def test_the_digest_follows_the_transform_where_its_results_are_not_kept(root):
    nearest = v2.Resize([4, 4], v2.InterpolationMode.NEAREST)
    assert load(root, v2.Resize([4, 4]), in_memory=False).digest() != load(root, nearest, in_memory=False).digest()


def test_a_transform_without_a_stable_repr_is_refused_only_where_its_results_are_not_kept(root):
    class Nameless:
        def __call__(self, image):
            return image

    assert load(root, Nameless()).digest()
    with pytest.raises(Refusal, match=r"`transform` should have a repr .* at 0x.*`__repr__`.*`memory_limit_gib`"):
        load(root, Nameless(), in_memory=False).digest()


def test_random_transforms_are_refused(root):
    torch.manual_seed(0)
    with pytest.raises(Refusal, match=r"`transform` should be deterministic.*RandomHorizontalFlip.*`augment`"):
        load(root, v2.RandomHorizontalFlip())


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda image: image.size, r"uint8 or float\. Got tuple for image `here/a/000.png`"),
        (lambda image: torch.zeros(2, 2), r"Got torch\.float32 \[2, 2\]"),
        (lambda image: torch.zeros(3, 2, 2, dtype=torch.int64), r"Got torch\.int64 \[3, 2, 2\]"),
        (
            lambda image: torch.full((3, 2, 2), -0.5),
            r"float pixels in \[0, 1\]\. Got -0\.5 to -0\.5 for image `here/a/000.png`",
        ),
        (lambda image: torch.full((3, 2, 2), 255.0), r"Got 255 to 255 .*Leave normalisation to the network"),
        (lambda image: torch.full((3, 2, 2), float("nan")), "Got nan to nan"),
    ],
)
def test_a_transform_that_gives_no_image_is_refused(root, transform, words):
    with pytest.raises(Refusal, match=words):
        load(root, transform)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (v2.Resize([0, 4]), r"Got ValueError: height and width must be > 0, for image `here/a/000\.png`"),
        (v2.Resize([4, 4], interpolation="nonsense"), "Got ValueError: Invalid interpolation mode: 'nonsense'"),
        (v2.RandomCrop([900, 900]), r"Got ValueError: Required crop size \(900, 900\) is larger than input image size"),
        (lambda image: {}["missing"], r"Got KeyError: 'missing', for image `here/a/000\.png`"),
    ],
)
def test_a_transform_that_raises_an_error_is_refused_with_its_words(root, transform, words):
    with pytest.raises(Refusal, match=f"`transform` should take every image. {words}"):
        load(root, transform)


def test_a_transform_may_give_torchvisions_own_tensors(root):
    assert type(load(root, v2.ToImage()).images([0])) is torch.Tensor


@pytest.mark.parametrize("in_memory", [True, False])
def test_another_size_is_refused_by_name_with_the_fix(root, in_memory):
    Image.new("RGB", (9, 8)).save(Path(root, "b", "002.png"))
    with pytest.raises(
        Refusal, match=r"\[3, 8, 8\] torch.uint8 as `here/a/000.png`. Got `here/b/002.png` with \[3, 8, 9\].*v2\.Resize"
    ):
        load(root, in_memory=in_memory).images([4, 5])
    assert load(root, v2.Resize([4, 4]), in_memory).images([4, 5]).shape == (2, 3, 4, 4)


class Fixed(Source):
    """A source of blank images with given keys and labels."""

    def __init__(self, keys, labels=None, classes=()):
        self.keys, self.labels, self.classes = keys, labels or [-1] * len(keys), list(classes)

    def open(self):
        return Blank(self.keys, self.labels, self.classes)


class Blank(Listing):
    def read(self, row):
        return Image.new("RGB", (8, 8))

    def fingerprint(self, row):
        return b""


def test_repeated_keys_are_refused():
    with pytest.raises(Refusal, match=r"`keys` should be unique in a source. Got `x/b` twice"):
        Opening().load("x", Fixed(["a", "b", "b"]))


def test_a_source_without_images_is_refused():
    with pytest.raises(Refusal, match=r"`x` should hold images. Got `x` with none"):
        Opening().load("x", Fixed([]))


def test_a_limit_takes_a_seeded_subset_in_proportion_and_in_order():
    source = Fixed([f"{row:02d}" for row in range(90)], [0] * 60 + [1] * 30)
    one, same, other, elsewhere = (
        Opening(seed=seed).load(name, source, limit=9) for seed, name in [(0, "x"), (0, "x"), (1, "x"), (0, "y")]
    )
    assert one.labels.tolist() == [0] * 6 + [1] * 3
    assert one.ids == same.ids == sorted(one.ids) != other.ids
    assert [name[2:] for name in elsewhere.ids] != [name[2:] for name in one.ids]
    assert len(Opening().load("x", source, limit=91)) == 90


def test_labels_become_those_of_the_classifier_by_name():
    source = Fixed(["a", "b", "c"], [1, 0, -1], ["cat", "dog"])
    loaded = Opening().load("x", source, classes=Outputs.of(["dog", "emu", "cat"]), flag="train")
    assert (loaded.labels.tolist(), loaded.num_classes) == ([0, 2, -1], 3)
    assert Opening().load("x", source, classes=Outputs.of([]), flag="train").labels.tolist() == [1, 0, -1]


def test_a_class_the_classifier_does_not_know_is_refused():
    with pytest.raises(Refusal, match=r"classes of `train` \(1: dog\)\. Got `x` with class `cat`\. Rename"):
        Opening().load("x", Fixed(["a", "b"], [1, 0], ["cat", "dog"]), classes=Outputs.of(["dog"]), flag="train")


def test_another_shape_than_the_normal_one_is_refused_with_both(root, image_folder):
    normal, small = load(root), LoadedSource("small", FolderSource(image_folder("small", {"a": 1}, size=4)).open())
    refuse_other_shape(load(root), normal)
    with pytest.raises(Refusal, match=r"shape \[3, 8, 8\] .*Got `small` with \[3, 4, 4\]. Give a `transform`"):
        refuse_other_shape(small, normal)
