"""Real images that come with scikit-learn and need no download."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import PositiveInt, Refusal
from lightning_gradood.data.source import Listing, Source, row_keys
from lightning_gradood.data.splits import split_rows

_MOST_SCALE = 10  # the photographs then take 82 MB each
TRAIN_FRACTION = 0.6  # leaves 647 unseen images of the digits 0-8 for the detectors to share


@dataclass(frozen=True)
class DigitsSource(Source):
    """Handwritten digits: scikit-learn's 1,797 scans of 8×8 pixels, enlarged to 32×32 RGB; keys are their row numbers.

    Args:
        digits: One or more of 0 … 9, each once; the label of an image is its digit's place in this list.
        part: Every scan, or the fixed 60 % ("train") or 40 % ("test") of each digit.

    Reference:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    digits: list[int]
    part: Literal["all", "train", "test"] = "all"

    def __post_init__(self) -> None:
        if not self.digits or len(set(self.digits)) < len(self.digits) or not set(self.digits) <= set(range(10)):
            raise Refusal(
                f"`digits` should be one or more of 0 … 9, each once. Got `digits = {self.digits}`. Write e.g. [0, 1]."
            )

    @override
    def open(self) -> Listing:
        from sklearn.datasets import load_digits  # takes a second, and only this source needs it

        found = load_digits()
        train, test = split_rows(found.target, [TRAIN_FRACTION, 1 - TRAIN_FRACTION], seed=0)
        part = {"all": np.arange(len(found.target)), "train": train, "test": test}[self.part]
        rows = part[np.isin(found.target[part], self.digits)]
        keys = row_keys(len(found.target))
        return PixelListing(
            keys=[keys[row] for row in rows],
            labels=[self.digits.index(digit) for digit in found.target[rows]],
            classes=[str(digit) for digit in self.digits],
            pixels=np.stack([_enlarged(scan) for scan in found.images[rows]]),
        )


@dataclass(frozen=True)
class PhotoPatches(Source):
    """Patches of scikit-learn's two bundled photographs, a temple and a flower, as a class each.

    Patches never overlap, so that no pixel is on two sides of a split; the defaults give 520. Keys are
    `<photograph>/<row>-<column>`.

    Args:
        size: Height and width of a patch in pixels, at most the resized photographs' height.
        scale: The photographs (427×640) are resized by this factor first; smaller gives fewer patches that show more.
    """

    size: PositiveInt = 32
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale <= _MOST_SCALE or not 1 <= self.size <= 427 * self.scale:
            raise Refusal(
                "`size` should be between 1 and the resized photographs' height, 427 · `scale`, "
                f"and `scale` at most {_MOST_SCALE}. "
                f"Got `size = {self.size}, scale = {self.scale}`. Choose e.g. size 32 and scale 1.0."
            )

    @override
    def open(self) -> Listing:
        from sklearn.datasets import load_sample_image  # takes a second, and only this source needs it

        keys, labels, patches = [], [], []
        classes = ["china", "flower"]
        for label, name in enumerate(classes):
            photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
            size = (round(photograph.width * self.scale), round(photograph.height * self.scale))
            grid = _grid(np.asarray(photograph.resize(size, Image.Resampling.LANCZOS)), self.size)
            keys += [f"{name}/{row:03d}-{column:03d}" for row, column in np.ndindex(grid.shape[:2])]
            labels += [label] * (grid.shape[0] * grid.shape[1])
            patches.append(grid.reshape(-1, self.size, self.size, 3))
        return PixelListing(keys, labels, classes, np.concatenate(patches))


@dataclass(frozen=True)
class PixelListing(Listing):
    """Images held in memory: `pixels` is uint8 [N, H, W, 3]."""

    pixels: NDArray[np.uint8]

    @override
    def read(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])

    @override
    def fingerprint(self, row: int) -> bytes:
        return bytes(self.pixels[row].tobytes())


def _enlarged(scan: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring a scan [8, 8] of values 0 … 16 to uint8 [32, 32, 3]."""
    grey = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))


def _grid(photograph: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut [H, W, 3] into [rows, columns, size, size, 3]; what is left at the right and lower edges is dropped."""
    rows, columns = photograph.shape[0] // size, photograph.shape[1] // size
    whole = photograph[: rows * size, : columns * size]
    return whole.reshape(rows, size, columns, size, 3).transpose(0, 2, 1, 3, 4)
