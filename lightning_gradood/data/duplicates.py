"""Images that are in several places: twice in one source, in two sources, or one folder in two roles."""

import functools
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
    """Give each image the row of the first one that is the same; all the row numbers where none is there twice."""
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
    known = {print_: row for row, print_ in reversed(list(enumerate(normal.fingerprints)))}
    for other, source in anomalies:
        shared = [row for row, print_ in enumerate(source.fingerprints) if print_ in known]
        if shared:
            first = normal.ids[known[source.fingerprints[shared[0]]]]
            rank_zero_info(
                f"{other}: {len(shared):,} of {len(source):,} images are also in `{name}`, e.g. `{source.ids[shared[0]]}` is "
                f"`{first}`. No detector can tell these apart: remove them from one of the two."
            )


def refuse_two_roles(train: Source | str | None, normal: Source | str, anomalies: Mapping[str, Source | str]) -> None:
    """Refuse one folder or data set, with the same settings, in two roles.

    Raises:
        Refusal: Two of them are the same.
    """
    roles = {"data.train": train, "data.normal": normal} | {
        f"data.anomalies.{name}": one for name, one in anomalies.items()
    }
    taken: dict[str, str] = {}
    for flag, source in roles.items():
        place = None if source is None else _identity(source)
        if place is not None and place in taken:
            raise Refusal(
                f"`{taken[place]}` and `{flag}` should be different images. Got both as {_shown(source)}. "
                f"{_ADVICE[flag == 'data.normal']}"
            )
        if place is not None:
            taken[place] = flag


_ADVICE = {
    True: "Name images that the classifier has not seen as `data.normal`, or leave `data.train` out and use `detect`.",
    False: "Name another folder for one of them, or remove one.",
}


def _identity(source: Source | str) -> str | None:
    """Text that is the same for sources with the same images; None where that cannot be known."""
    root = source if isinstance(source, str) else getattr(source, "root", None)
    if isinstance(root, str) and (isinstance(source, str) or set(vars(source)) == {"root"}):
        return f"folder {os.path.realpath(os.path.expanduser(root))}"
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


def _shown(source: Source | str | None) -> str:
    root = source if isinstance(source, str) else getattr(source, "root", None)
    return f"the folder `{root}`" if isinstance(root, str) else f"`{type(source).__name__}` with the same settings"
