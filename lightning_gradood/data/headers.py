"""What the headers of image files say: format, compression and original size, by which sources may differ."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightning_gradood.core import image_formats
from lightning_gradood.data.loading import LoadedSource
from lightning_gradood.records import NORMAL

_MOST = 200  # files that are opened of a source
_QUALITY_50 = 3688  # sum of the luminance table of JPEG's quality 50, which the Independent JPEG Group multiplies
_SHARE, _QUALITY, _SIZE = 0.1, 5, 1.25  # smaller differences are not told: of shares, of qualities, and factors of size


class Headers(NamedTuple):
    """The files of a source: the most frequent format and its share, medians of JPEG's quality and of the sizes."""

    kind: str
    share: float
    quality: float  # on the Independent JPEG Group's scale; NaN without JPEG files
    width: float
    height: float

    def __str__(self) -> str:
        share = f"{100 * self.share:.0f} % " if self.share < 1 else ""
        quality = "" if np.isnan(self.quality) else f" of quality {self.quality:.0f}"
        return f"{share}{self.kind}{quality}, {self.width:.0f} × {self.height:.0f}"

    def differs_from(self, other: "Headers") -> bool:
        """Whether a detector may tell these files from others by their format, compression or size."""
        size = (self.width * self.height / (other.width * other.height)) ** 0.5
        return (
            self.kind != other.kind
            or abs(self.share - other.share) > _SHARE
            or abs(self.quality - other.quality) >= _QUALITY  # false for NaN
            or not 1 / _SIZE < size < _SIZE
        )


def read_headers(source: LoadedSource) -> Headers | None:
    """Read the headers of at most 200 files, evenly spaced; None where images are no files. Nothing is decoded."""
    kinds, qualities, sizes = Counter[str](), list[float](), list[tuple[int, int]]()
    for row in np.linspace(0, len(source) - 1, min(len(source), _MOST)).astype(int):
        if path := source.path(int(row)):
            with (
                suppress(Exception),
                Image.open(path, formats=image_formats()) as image,
            ):  # damaged ones are refused later
                kinds[str(image.format)] += 1
                sizes.append(image.size)
                if tables := getattr(image, "quantization", None):
                    scale = 100 * sum(tables[0]) / _QUALITY_50
                    qualities.append((200 - scale) / 2 if scale <= 100 else 5000 / scale)
    if not kinds:
        return None
    (kind, count), (width, height) = kinds.most_common(1)[0], np.median(sizes, axis=0)
    quality = float(np.median(qualities)) if qualities and kind == "JPEG" else float("nan")
    return Headers(kind, count / kinds.total(), quality, width, height)


def file_differences(sources: Mapping[str, LoadedSource]) -> list[str]:
    """Say in a sentence which sources have files of another kind than the normal ones; nothing where none has."""
    normal = read_headers(sources[NORMAL])
    found = {name: read_headers(source) for name, source in sources.items() if normal and name != NORMAL}
    other = [f"`{name}` ({one})" for name, one in found.items() if one and normal and one.differs_from(normal)]
    if not other:
        return []
    return [
        f"Files of another kind than those of `{NORMAL}` ({normal}): {', '.join(other)}. Detectors may tell these sources by "
        "format, compression or enlargement instead of content; ImageStatistics in --detection.detectors measures how well "
        "that alone does."
    ]
