"""Scoring files: whatever is wrong with one is a verdict of its own, in order, without holding them all."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from guards import BATCH, images, save
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from lightning_gradood.guard import FileVerdict, ImageBytes, image_paths


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    return save(tmp_path_factory.mktemp("guard"), "gradient_knn")[0]


@pytest.fixture
def photos(tmp_path):
    """Return a folder of 20 images, and the images."""
    pixels = (images(20, seed=8) * 255).round().byte()
    folder = tmp_path / "photos"
    folder.mkdir()
    for row, one in enumerate(pixels):
        to_pil_image(one).save(folder / f"{row:02d}.png")
    return folder, pixels


def test_files_get_the_verdicts_of_their_pixels_on_disk_and_in_memory(guard, photos):
    folder, pixels = photos
    found, expected = list(guard.score_files(image_paths([str(folder)]))), guard(pixels)
    assert [one.path for one in found] == [str(folder / f"{row:02d}.png") for row in range(20)]
    arrays = (expected.probabilities, expected.scores, expected.p_values, expected.flagged)
    rows = zip(*(array.tolist() for array in arrays), strict=True)
    assert [(one.probability, one.score, one.p_value, one.flagged) for one in found] == list(rows)
    assert [one.prediction for one in found] == [guard.about.classes[index] for index in expected.predictions]
    assert {one.error for one in found} == {None}
    alone = [one.score for one in guard.score_files(sorted(folder.iterdir()), batch_size=1)]
    np.testing.assert_allclose(alone, expected.scores, rtol=1e-6)
    given = [ImageBytes(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    *memory, bad = guard.score_files([*given, ImageBytes("x.png", b"no image")])
    assert [(one.path, one.score) for one in memory] == [(Path(one.path).name, one.score) for one in found]
    assert bad.error == "`x.png` should be a readable image. Got: it is no image."


def test_every_bad_file_is_a_verdict_with_a_sentence_and_the_others_are_scored(guard, photos, tmp_path):
    folder, _ = photos
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "cut.png").write_bytes((folder / "00.png").read_bytes()[:40])
    (bad / "text.png").write_text("no image")
    (bad / "empty.png").write_bytes(b"")
    Image.new("RGB", (8, 16)).save(bad / "small.png")
    Image.new("L", (2000, 1500)).save(bad / "huge.png")
    (bad / "folder.png").mkdir()
    (bad / "nowhere.png").symlink_to(bad / "gone.png")
    expected = {
        "text.png": "should be a readable image. Got: it is no image.",
        "empty.png": "should be a readable image. Got: it is no image.",
        "cut.png": "should be a readable image. Got: ",
        "small.png": "should be an image of 16 × 16 pixels with 3 channels after the guard's transform. Got 16 × 8 with 3.",
        "huge.png": "should have at most 2 megapixels. Got 2000 × 1500, 3 megapixels, larger than this limit. Scale",
        "nowhere.png": "should be an image file. Got none of that name.",
        "missing.png": "should be an image file. Got none of that name.",
        "folder.png": "should be a readable image. Got: ",
    }
    good = sorted(folder.iterdir())[: len(expected)]
    mixed = [path for pair in zip(good, map(bad.joinpath, expected), strict=True) for path in pair]
    found = {one.path: one for one in guard.score_files(mixed, megapixels=2)}
    assert list(found) == [str(path) for path in mixed]
    for name, words in expected.items():
        error = found[str(bad / name)].error
        assert error.startswith(f"`{bad / name}` {words}"), name
        assert found[str(bad / name)] == FileVerdict(str(bad / name), error=error)
    scored = {path: one.score for path, one in found.items() if one.error is None}
    assert list(scored) == [str(path) for path in good]
    np.testing.assert_allclose([*scored.values()], [one.score for one in guard.score_files(good)], rtol=1e-6)


def test_an_image_that_breaks_the_network_is_lost_alone(guard, photos, monkeypatch):
    folder, _ = photos
    real = guard.network.forward

    def forward(pixels):
        return torch.where((pixels.flatten(1).mean(dim=1) == 0)[:, None], float("nan"), real(pixels))

    Image.new("RGB", (16, 16)).save(folder / "05.png")  # black
    monkeypatch.setattr(guard.network, "forward", forward)
    found = list(guard.score_files(sorted(folder.iterdir())))
    assert [one.path for one in found if one.score is None] == [str(folder / "05.png")]
    assert ["finite" in (one.error or "") for one in found] == [one.score is None for one in found]


def test_a_long_list_is_read_as_it_is_scored(guard, photos):
    path, taken = str(photos[0] / "00.png"), itertools.count()
    stream = guard.score_files(path for _ in taken)
    for _ in range(3 * BATCH):
        next(stream)
    stream.close()
    assert next(taken) <= 3 * BATCH + 2 * BATCH + 1


def test_places_are_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = "a/2.png a/1.JPG a/b/0.png a/.hidden.png a/.cache/x.png a/notes.txt c.bin [odd].png"
    for path in map(Path, files.split()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(image_paths(["a"])) == ["a/1.JPG", "a/2.png", "a/b/0.png"]
    assert list(image_paths(["c.bin", "a/*.png"])) == ["c.bin", "a/2.png"]
    assert list(image_paths(["a/**/0.png"])) == ["a/b/0.png"]
    assert list(image_paths(["[odd].png"])) == ["[odd].png"]
    assert list(image_paths(["nothing*.png", "gone.png"])) == ["nothing*.png", "gone.png"]  # rows with an error


def test_a_transform_is_applied_as_it_was_and_an_image_that_it_cannot_take_is_a_verdict(tmp_path):
    v2 = "torchvision.transforms.v2"
    guard, *_ = save(tmp_path, "baseline", transform={"class_path": f"{v2}.Resize", "init_args": {"size": [16, 16]}})
    picture = to_pil_image((images(1)[0] * 255).byte()).resize((40, 24))
    picture.save(tmp_path / "small.png")
    (found,) = guard.score_files([tmp_path / "small.png"])
    assert found.score == guard(guard.read(picture)[None]).scores[0]
    crop = {"class_path": f"{v2}.RandomCrop", "init_args": {"size": [32, 16]}}
    guard, *_ = save(tmp_path, "baseline", transform=crop)
    (found,) = guard.score_files([tmp_path / "small.png"])
    assert "`transform` should take every image. Got ValueError: Required crop size (32, 16)" in found.error
    assert f"for image `{tmp_path / 'small.png'}`" in found.error
