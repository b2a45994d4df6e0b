"""Class folders become the network's outputs in the order that the user means, or the program says that it does not know it."""

import json
import random
import re

import pytest
import torchvision
from torchvision.datasets import ImageFolder

from lightning_gradood.core import Refusal
from lightning_gradood.data import FolderSource, ImageDataModule, Outputs
from lightning_gradood.data.classes import class_order
from lightning_gradood.networks import categories_of


@pytest.mark.parametrize("form", ["{}", "class_{}", "digit{}", "{}_x"])
def test_numbered_names_are_in_the_order_of_their_numbers(form):
    expected = [form.format(number) for number in range(11)]
    shuffled = random.Random(0).sample(expected, len(expected))
    assert class_order(shuffled) == expected


@pytest.mark.parametrize(
    "names", [["b", "10", "9"], ["a10", "b9"], ["n01440764", "n01443537"], ["cat", "Dog"], ["1a2", "1a10"]]
)
def test_other_names_are_in_the_order_of_torchvision(names):
    assert class_order(names) == sorted(names)


def test_folders_of_words_have_the_labels_of_torchvision(image_folder):
    path = image_folder("words", {"wasp": 2, "ant": 1, "bee": 1})
    theirs = ImageFolder(path)
    listing = FolderSource(path).open()
    assert listing.classes == theirs.classes
    assert listing.labels == [label for _, label in theirs.samples]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "dog\ncat\n\nfox\n"),
        ("names.txt", "\ufeffdog\r\ncat\r\nfox"),
        ("names.txt", '["dog", "cat", "fox"]'),
        ("names.json", '["dog", "cat", "fox"]'),
        ("names.yaml", "- dog\n- cat\n- fox\n"),
        ("names.json", json.dumps({"0": "dog", "1": "cat", "2": "fox"})),
        ("names.yaml", "2: fox\n1: cat\n0: dog\n"),
        ("names.json", json.dumps({"fox": 2, "dog": 0, "cat": 1})),
    ],
)
def test_names_are_read_from_whatever_file_holds_them(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert Outputs.read(str(tmp_path / name)).names == ["dog", "cat", "fox"]


def test_imagenets_own_lists_know_each_class_by_number_and_by_name(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}))
    (tmp_path / "synsets.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    for file in ("index.json", "synsets.txt"):
        assert Outputs.read(str(tmp_path / file)).index("n01443537") == 1
    assert Outputs.read(str(tmp_path / "index.json")).index("Goldfish") == 1


@pytest.mark.parametrize("text", ["", "7", "{0: dog, 2: cat}", "[[]]", "{a: [1]}", "[1.5]"])
def test_a_file_without_such_a_list_is_refused(tmp_path, text):
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(
        Refusal, match=r"`data.classes` should name the network's outputs.* Got `data.classes = .*names.yaml`"
    ):
        Outputs.read(str(tmp_path / "names.yaml"))


@pytest.mark.parametrize(
    ("content", "got"),
    [(None, "does not exist"), (b"\xff\xfe\x00", "cannot be read as text"), (b"[a", "while parsing")],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content, got):
    if content is not None:
        (tmp_path / "names.json").write_bytes(content)
    with pytest.raises(Refusal, match=rf"`data.classes` should be .*`data.classes = .*names.json`.*{got}"):
        Outputs.read(str(tmp_path / "names.json"))


def data(image_folder, **settings):
    normal = image_folder("normal", {"dog": 3, "cat": 4})
    return ImageDataModule(**{"normal": normal, "anomalies": {"far": image_folder("far", {"x": 6})}} | settings)


def labels(module):
    """Number of images of each label."""
    found = module.normal_source.labels.tolist()
    return {label: found.count(label) for label in set(found)}


def test_folders_are_mapped_to_outputs_by_name(image_folder):
    module = data(image_folder, classes=["emu", "dog", "cat"])
    assert module.fit_outputs(3) == []
    assert labels(module) == {1: 3, 2: 4}
    assert (module.classes, module.num_classes) == (["emu", "dog", "cat"], 3)


def test_a_flat_folder_keeps_unknown_labels_beside_names_of_outputs(image_folder):
    module = data(image_folder, normal=image_folder("flat", {".": 5}), classes=["emu", "dog"])
    assert (set(labels(module)), module.classes) == ({-1}, ["emu", "dog"])


def test_the_training_images_are_mapped_too(image_folder):
    module = data(image_folder, train=image_folder("train", {"cat": 2, "dog": 3}), classes=["emu", "dog", "cat"])
    module.fit_outputs(3)
    assert sorted(module.train_source.labels) == [1, 1, 1, 2, 2]
    assert labels(module) == {1: 3, 2: 4}


@pytest.mark.parametrize("classes", [["dog", "cta"], ["dog"], ["cat", "dog", "cat"]])
def test_a_folder_that_is_no_output_or_several_is_refused(image_folder, classes):
    with pytest.raises(
        Refusal, match=r"`normal` should have the classes of `data.classes`.*Got `normal` with class `cat`"
    ):
        _ = data(image_folder, classes=classes).normal_source


def test_a_list_of_another_length_than_the_outputs_is_refused(image_folder):
    module = data(image_folder, classes=["dog", "cat"])
    with pytest.raises(Refusal, match=r"`data.classes` should name all 5 outputs of the network.*Got 2 names\."):
        module.fit_outputs(5)


def test_as_many_folders_as_outputs_are_taken_in_their_order_without_a_word(image_folder):
    module = data(image_folder)
    assert (module.fit_outputs(2), labels(module)) == ([], {0: 4, 1: 3})


def test_labels_of_fewer_folders_than_outputs_are_left_out_and_said(image_folder):
    module = data(image_folder)
    before = module.manifest
    (note,) = module.fit_outputs(5)
    assert re.search(r"5 outputs and `normal` 2 classes \(cat, dog\).*labels are left out.*--data.classes", note)
    assert (labels(module), module.classes, module.num_classes) == ({-1: 7}, [], None)
    assert module.manifest is not before
    assert module.fit_outputs(5) == [], "said once"


def test_the_first_outputs_are_those_of_the_training_images_and_that_is_said(image_folder):
    module = data(image_folder, train=image_folder("train", {"cat": 2, "dog": 3}))
    (note,) = module.fit_outputs(5)
    assert re.search(r"5 outputs and `train` 2 classes, which are taken for its first 2 outputs", note)
    assert labels(module) == {0: 4, 1: 3}


def test_another_order_than_torchvisions_is_said(image_folder):
    module = data(image_folder, normal=image_folder("numbers", {str(number): 1 for number in range(11)}))
    (note,) = module.fit_outputs(11)
    assert "in the order of their numbers, 0, 1, 2, …, 10; torchvision's ImageFolder has 0, 1, 10, …" in note
    assert module.classes == [str(number) for number in range(11)]


def test_categories_of_torchvisions_weights_name_the_outputs(image_folder):
    names = categories_of("torchvision.models.resnet18", "DEFAULT")
    assert names == torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert names == categories_of(
        "torchvision.models.resnet.resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    )
    module = data(image_folder, normal=image_folder("imagenet", {"great_white_shark": 2, "tench": 1, "mine": 1}))
    module.names_of_weights = Outputs.of(names)
    (note,) = module.fit_outputs(1000)
    assert labels(module) == {names.index("great white shark"): 2, names.index("tench"): 1, -1: 1}
    assert "1 of 4 images of `normal` have no label" in note


@pytest.mark.parametrize("weights", [None, "NONE", "IMAGENET1K_V9"])
def test_no_categories_are_known_without_weights_of_torchvision(weights):
    assert categories_of("torchvision.models.resnet18", weights) == []
    assert categories_of("lightning_gradood.networks.resnet18", "DEFAULT") == []


def test_categories_that_are_no_folders_leave_the_folders_alone(image_folder):
    module = data(image_folder)
    module.names_of_weights = Outputs.of(["tench", "goldfish"])
    assert (module.fit_outputs(2), module.classes) == ([], ["cat", "dog"])
