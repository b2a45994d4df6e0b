"""Random image files for the tests of this room."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, count: int, size: int = 8, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{row:03d}.png")
    return folder
