"""Images in several places: twice in one source, in two sources, or one folder in two roles."""

import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lightning_gradood.core import Refusal
from lightning_gradood.data.datasets import DatasetSource, LoadedSource
from lightning_gradood.data.source import Source


def groups_of(source: LoadedSource) -> NDArray[np.int64]:
    """Give each image the row of the first one that is the same, int64 [N]."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(print_, row) for row, print_ in enumerate(source.fingerprints)], dtype=np.int64)


def say_duplicates(source: LoadedSource, groups: NDArray[np.int64]) -> None:
    """Print one line where images are in a source more than once."""
    copies = Counter(groups.tolist())
    several = [row for row, number in copies.items() if number > 1]
    if several:
        example = np.flatnonzero(groups == several[0])[:2]
        rank_zero_info(
            f"{source.name}: {sum(copies[row] for row in several):,} of {len(groups):,} images are there more than once "
            f"({len(several):,} different ones), e.g. `{source.ids[example[0]]}` and `{source.ids[example[1]]}`. "
            "The same images are in the same split."
        )


def say_shared(sources: Mapping[str, LoadedSource]) -> None:
    """Print one line for each anomaly source that has images of the normal one, which comes first."""
    (name, normal), *anomalies = sources.items()
    for other, source in anomalies:
        if shared := _shared(source, normal):
            rank_zero_info(
                f"{other}: {len(shared):,} of {len(source):,} images are also in `{name}`, e.g. `{shared[0][0]}` is "
                f"`{shared[0][1]}`. No detector can tell these apart: remove them from one of the two."
            )


def say_trained_on(train: LoadedSource, normal: LoadedSource) -> None:
    """Print one line where normal images are among the classifier's training images, or where that is not looked at."""
    if not train.in_memory and len(train) > _MOST_COMPARED:
        rank_zero_info(f"train: {len(train):,} images are too many to look for copies of normal ones among them.")
    elif shared := _shared(normal, train):
        rank_zero_info(
            f"{normal.name}: {len(shared):,} of {len(normal):,} images are also training images, e.g. `{shared[0][0]}` is "
            f"`{shared[0][1]}`. The classifier knows these, so that false alarms are rarer among them than among new images: "
            "remove them from one of the two."
        )


_MOST_COMPARED = 50_000  # training images that are not in memory, each of which would have to be read


def _shared(source: LoadedSource, other: LoadedSource) -> list[tuple[str, str]]:
    """The ids of the images of a source that another one has too, each with its id there."""
    alike = source.in_memory == other.in_memory  # else one would be compared by pixels and the other by files
    mine, theirs = (one.fingerprints if alike else one.original_fingerprints for one in (source, other))
    known = {print_: row for row, print_ in reversed(list(enumerate(theirs)))}
    return [(source.ids[row], other.ids[known[print_]]) for row, print_ in enumerate(mine) if print_ in known]


def refuse_two_roles(train: Source | str | None, normal: Source | str, anomalies: Mapping[str, Source | str]) -> None:
    """Refuse one folder or data set, with the same settings, in two roles, and a folder inside that of another role."""
    roles = {"data.train": train, "data.normal": normal} | {
        f"data.anomalies.{name}": one for name, one in anomalies.items()
    }
    for (flag, source), (other_flag, other) in itertools.combinations(roles.items(), 2):
        if source is None or other is None:
            continue
        if (identity := _identity(source)) is not None and identity == _identity(other):
            raise Refusal(
                f"`{flag}` and `{other_flag}` should be different images. Got both as {_shown(source)}. "
                f"{_ADVICE[other_flag == 'data.normal']}"
            )
        folder, other_folder = _folder(source), _folder(other)
        if folder and other_folder and os.path.commonpath([folder, other_folder]) in (folder, other_folder):
            inner, outer = (source, other) if len(folder) > len(other_folder) else (other, source)
            raise Refusal(
                f"`{flag}` and `{other_flag}` should be different images. Got {_shown(inner)} inside {_shown(outer)}, which "
                "is read with all folders in it. Name a folder beside it."
            )


_ADVICE = {
    True: "Name images that the classifier has not seen as `data.normal`, or leave `data.train` out and use `detect`.",
    False: "Name another folder for one of them, or remove one.",
}


def _identity(source: Source | str) -> str | None:
    """Text that is the same for sources with the same images; None where that cannot be known."""
    if folder := _folder(source):
        return f"folder {folder}"
    settings: Any = vars(source)
    kind: Any = type(source)
    if isinstance(source, DatasetSource):
        if not isinstance(source.dataset, functools.partial):
            return None
        kind, settings = source.dataset.func, [repr(source.dataset.args), source.dataset.keywords]
    try:
        return f"{kind!r} {json.dumps(settings, sort_keys=True)}"
    except (TypeError, ValueError):  # settings that are no plain values
        return None


def _folder(source: Source | str) -> str | None:
    """The real path of a folder that is read as it is; None for every other source."""
    root = source if isinstance(source, str) else getattr(source, "root", None)
    if isinstance(root, str) and (isinstance(source, str) or set(vars(source)) == {"root"}):
        return os.path.realpath(os.path.expanduser(root))
    return None


def _shown(source: Source | str | None) -> str:
    root = source if isinstance(source, str) else getattr(source, "root", None)
    return f"the folder `{root}`" if isinstance(root, str) else f"`{type(source).__name__}` with the same settings"
