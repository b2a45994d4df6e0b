"""The manifest: every id once, sources independent of each other, and back from disk as it was."""

import json

import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.data import Manifest, make_manifest

IDS = {name: [f"{name}/{n:02d}" for n in range(count)] for name, count in {"normal": 20, "near": 10, "far": 7}.items()}
LABELS = {name: [n % 2 for n in range(len(ids))] for name, ids in IDS.items()}


def manifest(names=("normal", "near", "far"), seed=0):
    return make_manifest({name: IDS[name] for name in names}, LABELS, [0.4, 0.4, 0.2], seed)


def test_every_id_has_one_split_in_the_order_of_its_source():
    made = manifest()
    assert made.counts == {
        "normal": {"train": 8, "val": 8, "test": 4},
        "near": {"train": 4, "val": 4, "test": 2},
        "far": {"train": 3, "val": 3, "test": 1},
    }
    assert set(made.split_of) == {name for ids in IDS.values() for name in ids}
    assert all(ids == sorted(ids) for parts in made.sources.values() for ids in parts.values())
    assert made.split_of[made.sources["near"]["val"][0]] == "val"


def test_a_source_is_split_the_same_whatever_stands_beside_it():
    assert manifest() == manifest(("far", "normal", "near"))
    assert manifest(("normal",)).sources["normal"] == manifest().sources["normal"]


def test_sources_of_one_size_are_split_differently():
    ids = {name: [f"{name}/{n}" for n in range(50)] for name in ("a", "b")}
    made = make_manifest(ids, {name: [0] * 50 for name in ids}, [0.4, 0.4, 0.2], 0)
    rows = [[name.partition("/")[2] for name in made.sources[source]["train"]] for source in ("a", "b")]
    assert rows[0] != rows[1]


def test_the_seed_changes_the_splits():
    assert manifest(seed=1).sources != manifest().sources


def test_it_comes_back_from_disk_as_it_was(tmp_path):
    made = manifest()
    made.write(tmp_path / "splits.json")
    assert Manifest.read(tmp_path / "splits.json") == made
    assert json.loads((tmp_path / "splits.json").read_text())["seed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"], ids=["missing", "cut short", "a list", "empty"])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    path = tmp_path / "splits.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        Refusal, match=r"`path` should be a manifest of splits\. Got `path = .*splits\.json`: .*Delete the file"
    ):
        Manifest.read(path)


def test_too_few_images_are_refused_with_source_count_and_minimum():
    with pytest.raises(Refusal, match=r"`few` should have at least 3 images, .*Got `few` with 2\."):
        make_manifest({"few": ["few/0", "few/1"]}, {"few": [0, 0]}, [0.4, 0.4, 0.2], 0)


def test_two_fractions_are_refused():
    with pytest.raises(
        Refusal, match=r"`split` should be three fractions: train, val and test\. Got `split = \[0\.5, 0\.5\]`"
    ):
        make_manifest(IDS, LABELS, [0.5, 0.5], 0)
