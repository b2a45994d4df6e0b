"""The same image in several places: in one split, counted and said; one folder in two roles is refused."""

import functools
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import FakeData

from lightning_gradood.core import Refusal
from lightning_gradood.data import DatasetSource, FolderSource, ImageDataModule, Limits, Split


def test_copies_are_in_one_split_and_said(image_folder, said):
    root = Path(image_folder("normal", {".": 30}))
    for row in range(10):
        shutil.copy(root / f"{row:03d}.png", root / f"copy{row:03d}.png")
    for memory in (2.0, 0.0):  # by pixels; by the bytes of files
        split_of = ImageDataModule(str(root), limits=Limits(memory_gib=memory)).sources.manifest.split_of
        assert all(split_of[f"normal/{row:03d}.png"] == split_of[f"normal/copy{row:03d}.png"] for row in range(10))
        assert len(split_of) == 40
        assert said.pop() == (
            "normal: 20 of 40 images are there more than once (10 different ones), e.g. `normal/000.png` and "
            "`normal/copy000.png`. The same images are in the same split."
        )
    Image.open(root / "013.png").save(root / "saved_anew.bmp")  # equal pixels in other files are the same image
    split_of = ImageDataModule(str(root)).sources.manifest.split_of
    assert split_of["normal/013.png"] == split_of["normal/saved_anew.bmp"]
    alone = Path(image_folder("alone", {".": 1}))
    for row in range(9):
        shutil.copy(alone / "000.png", alone / f"copy{row}.png")
    with pytest.raises(
        Refusal, match=r"enough images to fill every split.* Got `normal` with 10, 1 of them different\."
    ):
        _ = ImageDataModule(str(alone)).sources.manifest


def test_copies_in_training_images_do_not_select_the_checkpoint_they_trained(image_folder, said):
    root = Path(image_folder("train", {"a": 10, "b": 10}))
    for path in sorted(root.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy{path.name}"))
    data = ImageDataModule("elsewhere", train=str(root), split=Split(validation=0.5))
    loaders, marks = (data.train_dataloader(), data.val_dataloader()), data.sources.train.fingerprints
    train, val = ({marks[row] for batch in loader for row in batch.rows.tolist()} for loader in loaders)
    assert not train & val
    assert (len(train) + len(val), len(said)) == (20, 1)


def test_images_that_are_in_two_sources_are_said(image_folder, said):
    train, normal = Path(image_folder("train", {"a": 10})), Path(image_folder("normal", {"a": 5, "b": 5}))
    smoke = Path(image_folder("smoke", {".": 30}))
    for path in [*sorted(normal.rglob("*.png")), *sorted(smoke.rglob("*.png"))]:
        Image.open(path).rotate(90 if normal in path.parents else 180).save(path)
    for row in range(4):
        shutil.copy(train / "a" / f"{row:03d}.png", normal / "a" / f"known{row}.png")
        shutil.copy(normal / "b" / f"{row:03d}.png", smoke / f"{row:03d}.png")
    known = (
        "normal: 4 of 14 images are also training images, e.g. `normal/a/known0.png` is `train/a/000.png`. The classifier knows "
        "these, so that false alarms are rarer among them than among new images: remove them from one of the two."
    )
    both = "smoke: 4 of 30 images are also in `normal`, e.g. `smoke/000.png` is `normal/b/000.png`. No detector can tell these"
    for gib in (2.0, 0.0, 20 * 3 * 8 * 8 / 2**30):  # by pixels; by files; by files where one source is in memory
        limits = Limits(memory_gib=gib)
        data = ImageDataModule(str(normal), {"smoke": str(smoke)}, str(train), ["a", "b"], limits=limits)
        data.compare_with_training()
        assert said.pop() == known
        _ = data.sources.manifest
        assert said[-1].startswith(both)


def fake(**settings):
    return DatasetSource(functools.partial(FakeData, **settings))


NESTED = "one inside the other"
ROLES = [
    ({"train": "photos", "normal": "./x/../photos/"}, "train", "normal", "the same"),
    ({"train": "photos", "normal": "link"}, "train", "normal", "the same"),
    ({"train": fake(size=9), "normal": fake(size=9)}, "train", "normal", "the same"),
    ({"normal": "a", "anomalies": {"b": "a"}}, "normal", "anomalies.b", "the same"),
    ({"train": "photos", "normal": "photos/val"}, "train", "normal", NESTED),
    ({"normal": FolderSource("a"), "anomalies": {"x": "./a/../a/b/c"}}, "normal", "anomalies.x", NESTED),
]


def test_one_folder_in_two_roles_or_inside_another_is_refused_by_its_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("photos", "link")
    for settings, flag, other, how in ROLES:
        with pytest.raises(
            Refusal, match=f"`data.{flag}` and `data.{other}` should be different images. Got .*, {how}"
        ):
            ImageDataModule(**settings)
    ImageDataModule("photos/a", {"x": "photos/b", "y": "photos/ab"}, train="photos/train")
    ImageDataModule(fake(size=9, random_offset=1), {"x": fake(size=9)}, train=fake(size=8))  # other settings
    ImageDataModule(DatasetSource(lambda: FakeData(9)), {"x": DatasetSource(lambda: FakeData(8))})


def test_names_that_are_no_utf8_have_ids_that_can_be_stored(image_folder, tmp_path, said):
    root = Path(image_folder("photos", {"a": 8}))
    (root / "notes.txt").touch()
    try:
        (root / "a" / "000.png").rename(root / "a" / os.fsdecode(b"\xe9.png"))
    except OSError:
        pytest.skip("this file system stores UTF-8 names only")
    data = ImageDataModule(str(root))
    assert rb"normal/a/\xe9.png".decode() in data.sources.manifest.split_of
    assert said == [f"normal: {root}: passed over 1 .txt."]
    data.sources.manifest.write(tmp_path / "splits.json")
    assert len(data.sources.normal.images(range(8))) == 8
    assert data.sources.normal.digest().encode()
    assert data.sources.normal.path(7).encode().endswith(rb"\xe9.png")
