"""The digits of the tiny experiment as image files."""

from pathlib import Path

from PIL import Image

from lightning_gradood.data import DigitsSource


def write_digits(folder: Path, digits: list[int], part: str = "test") -> dict[str, Path]:
    """Write scans as PNG files; returns their keys with their paths."""
    listing = DigitsSource(digits, part).open()
    folder.mkdir(parents=True)
    found = {}
    for row, key in enumerate(listing.keys):
        found[key] = folder / f"{key}.png"
        picture = listing.read(row)
        assert isinstance(picture, Image.Image)
        picture.save(found[key])
    return found
