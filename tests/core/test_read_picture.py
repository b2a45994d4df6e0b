"""Decoding: upright, first frame, within the limit of pixels, and one kind of refusal whatever a decoder raises."""

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from lightning_gradood.core import PixelLimit, Refusal, Unreadable, read_picture, upright

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
# What each value of EXIF's tag means, in NumPy's words rather than Pillow's.
TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


def with_orientation(orientation, form="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_orientation_is_applied_once(orientation, form):
    picture = read_picture(with_orientation(orientation, form), name="x")
    np.testing.assert_array_equal(np.asarray(picture), TURNED[orientation])
    np.testing.assert_array_equal(np.asarray(upright(picture)), TURNED[orientation])


def test_an_orientation_that_is_none_or_damaged_leaves_the_image(tmp_path):
    np.testing.assert_array_equal(np.asarray(read_picture(with_orientation(9), name="x")), PIXELS)
    Image.fromarray(PIXELS).save(tmp_path / "x.jpg", exif=b"Exif\x00\x00MM\x00*\x00\xff\xff\xff", quality=95)
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of it
        assert read_picture(tmp_path / "x.jpg").size == (4, 6)


@pytest.mark.parametrize("suffix", ["gif", "jfif", "jpe", "avif", "jp2", "tga", "webp"])
def test_formats_are_read_as_pillow_reads_them(tmp_path, suffix):
    if suffix in ("avif", "webp") and not features.check(suffix):
        pytest.skip("this Pillow was built without it")
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(PIXELS).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(read_picture(path)), np.asarray(image.convert("RGB")))


def test_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_large_image_is_larger_than_the_limit_and_not_broken(tmp_path):
    path = tmp_path / "x.png"
    Image.new("1", (20_000, 10_000)).save(path)  # of the size at which Pillow itself refuses
    with pytest.raises(Refusal) as refusal:
        read_picture(path, limit=PixelLimit(100, "--data.max_megapixels"))
    assert str(refusal.value) == (
        f"`{path}` should have at most 100 megapixels. Got 20000 × 10000, 200 megapixels, larger than this limit. "
        "Scale it down, or raise --data.max_megapixels."
    )
    assert not isinstance(refusal.value, Unreadable)


def test_the_limit_can_be_raised_above_pillows_which_stays_as_it_was(monkeypatch, tmp_path):
    path = tmp_path / "x.png"
    Image.new("1", (40, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_picture(path).size == (40, 50)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(Unreadable):
        read_picture(tmp_path / "text.png")
    with ThreadPoolExecutor(4) as pool:
        assert {picture.size for picture in pool.map(read_picture, [path] * 40)} == {(40, 50)}
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("error", [IndexError, KeyError, NotImplementedError, RuntimeError, EOFError, MemoryError])
def test_whatever_a_decoder_raises_is_one_refusal(tmp_path, monkeypatch, error):
    path = tmp_path / "x.png"
    Image.fromarray(PIXELS).save(path)

    def load(self):
        raise error("odd")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(Unreadable, match=rf"x\.png` should be a readable image\. Got: {error.__name__} '?odd'?\."):
        read_picture(path)


@pytest.mark.parametrize(
    "head", [b"DDS |\x00\x00\x00", b"BLP2\x01\x00\x00\x00", b"BLP1", b"\x00\x00\x01\x00\x01\x00", b"8BPS"]
)
def test_headers_followed_by_noise_are_refused(tmp_path, head):
    noise = np.random.default_rng(1).bytes(400)
    for length in (0, 20, 120, 400):
        (tmp_path / "x.png").write_bytes(head + noise[:length])
        with pytest.raises(Refusal, match=r"x\.png` should "):
            read_picture(tmp_path / "x.png")


def test_postscript_is_not_given_to_ghostscript(tmp_path):
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(Unreadable, match="it is no image"):
        read_picture(tmp_path / "x.png")


def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, what in ((tmp_path / "pipe.png", "a pipe"), ("/dev/zero", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(Unreadable, match=f"Got: it is {what}"):
            read_picture(path)


def test_orientation_is_what_pillow_makes_of_it():
    for orientation in TURNED:
        with Image.open(with_orientation(orientation, "PNG")) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(TURNED[orientation], expected)
