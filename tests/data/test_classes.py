"""Class folders become the network's outputs in the order that the user means, or the program says that it does not know it."""

import json
import random
import re
from collections import Counter

import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.data import ImageDataModule, Outputs
from lightning_gradood.data.source import class_order


def test_numbered_names_are_in_the_order_of_their_numbers_and_others_in_that_of_torchvision():
    for form in ("{}", "class_{}", "digit{}", "{}_x"):
        expected = [form.format(number) for number in range(11)]
        assert class_order(random.Random(0).sample(expected, len(expected))) == expected
    for names in (["b", "10", "9"], ["a10", "b9"], ["n01440764", "n01443537"], ["cat", "Dog"], ["1a2", "1a10"]):
        assert class_order(names) == sorted(names)


FILES = [
    ("names.txt", "\ufeffdog\r\ncat\n\nfox\n"), ("names.txt", '["dog", "cat", "fox"]'), ("names.yaml", "- dog\n- cat\n- fox\n"),
    ("names.yaml", "2: fox\n1: cat\n0: dog\n"), ("names.json", '{"0": "dog", "1": "cat", "2": "fox"}'),
]  # fmt: skip
NO_FILES = [(text, "no such list") for text in ("", "7", "{0: dog, 2: cat}", "[[]]", "{a: [1]}", "[1.5]")]
NO_FILES += [(None, "cannot be read ("), (b"\xff\xfe\x00", "cannot be read ("), (b"[a", "while parsing")]


def test_names_are_read_from_whatever_file_holds_them(tmp_path):
    for name, text in FILES:
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert Outputs.read(str(tmp_path / name)).names == ["dog", "cat", "fox"], (name, text)
    index = tmp_path / "index.json"  # ImageNet's own
    index.write_text(json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}))
    assert [Outputs.read(str(index)).index(name) for name in ("n01443537", "Goldfish")] == [1, 1]
    numbered = Outputs.read(11)
    assert ([numbered.index(name) for name in ("3", "03", "10", "11", "x")], len(numbered.names)) == (
        [3, 3, 10, None, None],
        11,
    )
    for content, words in NO_FILES:
        (tmp_path / "none.yaml").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "none.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(Refusal, match=r"`data.classes` should .* Got `data.classes = .*none.yaml`") as refused:
            Outputs.read(str(tmp_path / "none.yaml"))
        assert words in str(refused.value), content


def data(image_folder, **settings):
    normal = image_folder("normal", {"dog": 3, "cat": 4})
    return ImageDataModule(**{"normal": normal, "anomalies": {"far": image_folder("far", {"x": 6})}} | settings)


def labels(module):
    return Counter(module.sources.normal.labels.tolist())


def test_folders_are_mapped_to_outputs_by_name(image_folder):
    module = data(image_folder, classes=["emu", "dog", "cat"])
    assert (module.sources.fit_outputs(3), labels(module)) == ([], {1: 3, 2: 4})
    assert (module.sources.classes, module.sources.num_classes) == (["emu", "dog", "cat"], 3)
    trained = data(image_folder, train=image_folder("train", {"cat": 2, "dog": 3}), classes=["emu", "dog", "cat"])
    trained.sources.fit_outputs(3)
    assert (sorted(trained.sources.train.labels), labels(trained)) == ([1, 1, 1, 2, 2], {1: 3, 2: 4})
    flat = data(image_folder, normal=image_folder("flat", {".": 5}), classes=["emu", "dog"])
    assert (set(labels(flat)), flat.sources.classes) == ({-1}, ["emu", "dog"])
    for classes in (["dog", "cta"], ["dog"], ["cat", "dog", "cat"]):
        with pytest.raises(Refusal, match=r"the classes of `data.classes`.*Got `normal` with class `cat`"):
            _ = data(image_folder, classes=classes).sources.normal
    with pytest.raises(Refusal, match=r"`data.classes` should name all 5 outputs of the network.*Got 2 names\."):
        data(image_folder, classes=["dog", "cat"]).sources.fit_outputs(5)


def test_without_names_an_order_that_is_not_sure_is_said(image_folder):
    module = data(image_folder)
    assert (module.sources.fit_outputs(2), labels(module)) == ([], {0: 4, 1: 3}), "as many folders as outputs"
    module = data(image_folder)
    before = module.sources.manifest
    (note,) = module.sources.fit_outputs(5)
    assert re.search(r"5 outputs and `normal` 2 classes \(cat, dog\).*labels are left out.*--data.classes", note)
    assert (labels(module), module.sources.classes, module.sources.num_classes) == ({-1: 7}, [], None)
    assert module.sources.manifest is not before
    assert module.sources.fit_outputs(5) == [], "said once"
    module = data(image_folder, train=image_folder("train", {"cat": 2, "dog": 3}))
    (note,) = module.sources.fit_outputs(5)
    assert "5 outputs and `train` 2 classes, which are taken for its first 2 outputs" in note
    assert labels(module) == {0: 4, 1: 3}
