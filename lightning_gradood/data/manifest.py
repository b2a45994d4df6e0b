"""Which image is in which split: the manifest that stands beside a run's results."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lightning_gradood.data.splits import named_seed, smallest_count, split_rows
from lightning_gradood.errors import Refusal
from lightning_gradood.records import SPLITS


@dataclass(frozen=True)
class Manifest:
    """The split of every image of every detection source.

    Args:
        seed: The seed the splits were made with.
        fractions: The shares of train, val and test.
        sources: For each source, the ids in each split, in the source's order: `sources["normal"]["val"]`.
    """

    seed: int
    fractions: list[float]
    sources: dict[str, dict[str, list[str]]]

    @cached_property
    def split_of(self) -> dict[str, str]:
        """The split of each id: "train", "val" or "test"."""
        return {name: split for parts in self.sources.values() for split, names in parts.items() for name in names}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The number of images of each source in each split."""
        return {source: {split: len(ids) for split, ids in parts.items()} for source, parts in self.sources.items()}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest as JSON, whole or not at all."""
        content = {"seed": self.seed, "fractions": self.fractions, "sources": self.sources}
        partial = Path(f"{os.fspath(path)}.partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read a manifest that `write` wrote.

        Raises:
            Refusal: The file is missing or not a manifest.
        """
        try:
            content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(seed=content["seed"], fractions=content["fractions"], sources=content["sources"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal(
                f"`path` should be a manifest of splits. Got `path = {os.fspath(path)}`: {error!r}. "
                "Delete the file to have it made anew from the sources."
            ) from error


def make_manifest(
    ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[int] | NDArray[Any]],
    fractions: Sequence[float],
    seed: int,
) -> Manifest:
    """Split every source into train, val and test, each on its own, so that no source's split depends on the others.

    Args:
        ids: The ids of each source's images, in order.
        labels: Their classes, for stratification.
        fractions: The shares of train, val and test; positive, with sum 1.
        seed: Combined with each source's name.

    Raises:
        Refusal: There are not three such fractions, or a source has too few images to fill every split.
    """
    if len(fractions) != len(SPLITS):
        raise Refusal(
            "`split` should be three fractions: train, val and test. "
            f"Got `split = {list(fractions)}`. Write e.g. [0.4, 0.4, 0.2]."
        )
    least = smallest_count(fractions)
    sources = {}
    for source, names in ids.items():
        if len(names) < least:
            raise Refusal(
                f"`{source}` should have at least {least} images, to fill every split of {list(fractions)}. "
                f"Got `{source}` with {len(names)}. Add images, or raise `limit`."
            )
        parts = split_rows(labels[source], fractions, named_seed(seed, source))
        sources[source] = {split: [names[row] for row in rows] for split, rows in zip(SPLITS, parts, strict=True)}
    return Manifest(seed, list(fractions), sources)
