"""Small image folders for the tests of this room."""

from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import write_images


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., str]:
    """Write a folder of random images, `classes` giving how many each class has, and return its path."""

    def write(name: str, classes: dict[str, int], size: int = 8) -> str:
        for seed, (label, count) in enumerate(classes.items()):
            write_images(tmp_path / name / label, count, size, seed)
        return str(tmp_path / name)

    return write
