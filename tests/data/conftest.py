"""Small image folders for the tests of this room, and the lines that are printed about them."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path):
    """Write a folder of random images, `classes` giving how many each class has, and return its path."""

    def write(name, classes, size=8):
        for seed, (label, count) in enumerate(classes.items()):
            folder = tmp_path / name / label
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
            for row, image in enumerate(pixels):
                Image.fromarray(image).save(folder / f"{row:03d}.png")
        return str(tmp_path / name)

    return write


@pytest.fixture
def said(monkeypatch):
    """Return the lines that are printed."""
    lines = []
    for module in ("datamodule", "mixture", "loading"):
        monkeypatch.setattr(f"lightning_gradood.data.{module}.rank_zero_info", lines.append)
    return lines
