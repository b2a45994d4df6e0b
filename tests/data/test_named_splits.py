"""Splits that the user names: a source for each part, and a manifest that is read back."""

import json
from pathlib import Path

import pytest
from asserts import assert_refused

from lightning_gradood.data import ImageDataModule, Limits, PhotoPatches, Split


@pytest.fixture
def parts(image_folder):
    """A normal source of three folders, one without one of the classes, and an anomalous one of test images alone."""
    sizes = {"tuning": {"a": 6, "b": 4}, "held": {"b": 5}, "smoke": {".": 7}}
    made = {name: image_folder(name, classes) for name, classes in sizes.items()}
    return {
        "normal": {"fit+val": made["tuning"], "test": made["held"]},
        "anomalies": {"smoke": {"test": made["smoke"]}},
    }


def test_each_part_is_the_split_that_it_names_and_classes_go_by_name(parts):
    sources = ImageDataModule(**parts).sources
    counts = {"normal": {"train": 5, "val": 5, "test": 5}, "smoke": {"train": 0, "val": 0, "test": 7}}
    assert sources.manifest.counts == counts
    assert sources.manifest.sources["normal"]["test"] == [f"normal/test/b/{row:03d}.png" for row in range(5)]
    assert (sources.normal.classes, sources.normal.labels.tolist()) == (["a", "b"], [0] * 6 + [1] * 9)
    assert sources.normal.path(12).endswith("held/b/002.png")
    held = ImageDataModule(parts["normal"]["test"]).sources.normal
    assert sources.normal.images([12]).equal(held.images([2]))
    assert sources.normal.original_fingerprints[10:] == held.original_fingerprints
    limited = ImageDataModule(**parts, limits=Limits(6)).sources.manifest.counts
    assert limited == {"normal": {"train": 2, "val": 2, "test": 2}, "smoke": {"train": 0, "val": 0, "test": 6}}


def test_a_manifest_is_read_back_and_what_it_does_not_list_is_said(parts, image_folder, tmp_path, said):
    one, path = image_folder("one", {"a": 10, "b": 10}), tmp_path / "splits.json"
    written = ImageDataModule(one, {"smoke": parts["anomalies"]["smoke"]["test"]}, split=Split(seed=5)).sources.manifest
    written.write(path)
    split = Split(seed=6, manifest=str(path))
    assert ImageDataModule(one, split=split).sources.manifest.sources == {"normal": written.sources["normal"]}
    image_folder("one", {"a": 12, "b": 10})
    data = ImageDataModule(one, {"photographs": PhotoPatches(size=8)}, split=split)
    assert data.sources.manifest.sources["normal"] == written.sources["normal"]
    assert [line for line in said if "manifest" in line] == [
        "normal: 2 images that `data.split.manifest` does not list are left out.",
        "photographs: `data.split.manifest` does not list this source, which is split by the seed.",
    ]


def test_parts_and_manifests_that_do_not_fit_are_refused(parts, image_folder, tmp_path):
    one, path = image_folder("one", {"a": 10}), tmp_path / "splits.json"
    ImageDataModule(one).sources.manifest.write(path)
    Path(one, "a", "003.png").unlink()
    twice = json.loads(path.read_text())
    twice["sources"]["normal"]["val"] += twice["sources"]["normal"]["train"]
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    flat = image_folder("flat", {".": 3})

    def manifest(normal, file=None, anomalies=None):
        return lambda: (
            ImageDataModule(normal, anomalies, split=Split(manifest=file and str(tmp_path / file))).sources.manifest
        )

    assert_refused(
        (manifest({"train": one}), r"`data.normal` should be a source, or one for each of some parts: fit, val"),
        (manifest(one, anomalies={"x": {}}), "`data.anomalies.x` should be a source, or one for each"),
        (manifest({"fit": one, "test": one}), "`data.normal.fit` and `data.normal.test` should be different images"),
        (manifest({"val": one, "test": "nowhere"}), "`data.normal.test` should be a folder of images"),
        (manifest({"val": one, "test": flat}), "should have names of classes in all of its parts"),
        (
            manifest(one, "splits.json"),
            "list images that are there. Got 1 that `normal` does not have, e.g. normal/a/003.png.",
        ),
        (manifest(one, "none.json"), "should be a `splits.json` that `detect` has written. Got `data.split.manifest"),
        (manifest(one, "twice.json"), "an id more than once"),
    )
