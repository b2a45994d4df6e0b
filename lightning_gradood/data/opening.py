"""Opening sources by name, all in the same way."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from lightning_gradood.data.folder import FolderSource
from lightning_gradood.data.loaded import GIB, LoadedSource
from lightning_gradood.data.pixels import Transform
from lightning_gradood.data.source import Listing, Source
from lightning_gradood.data.splits import named_seed, split_rows
from lightning_gradood.errors import Refusal


@dataclass(frozen=True)
class Opening:
    """How sources become loaded sources.

    Args:
        transform: Applied once to every image.
        memory_limit_gib: Sources with more pixels than this are decoded on demand.
        seed: Chooses the images where a limit is given; combined with the source's name.
    """

    transform: Transform | None = None
    memory_limit_gib: float = 2.0
    seed: int = 0

    def load(
        self,
        name: str,
        source: Source | str,
        limit: int | None = None,
        classes: list[str] | None = None,
    ) -> LoadedSource:
        """Open a source.

        Args:
            name: The source's name.
            source: The source, or the path of a folder.
            limit: The most images to take; a stratified random subset in the source's order. None for all.
            classes: The classifier's classes: where both it and the source name theirs, labels become indices
                into these.

        Raises:
            Refusal: The source cannot be opened, is empty, or has classes the classifier does not know.
        """
        listing = (FolderSource(source) if isinstance(source, str) else source).open()
        if not listing.keys:
            raise Refusal(f"`{name}` should hold images. Got `{name}` with none. Point it at a source that has some.")
        if classes and listing.classes and listing.classes != classes:
            listing = _relabelled(name, listing, classes)
        rows = np.arange(len(listing.keys))
        if limit is not None and limit < len(rows):
            share = limit / len(rows)
            rows = split_rows(listing.labels, [share, 1 - share], named_seed(self.seed, f"limit/{name}"))[0]
        return LoadedSource(name, listing, self.transform, rows, int(self.memory_limit_gib * GIB))


def refuse_other_shape(source: LoadedSource, normal: LoadedSource) -> None:
    """Refuse a source whose images have another shape than the normal source's.

    Raises:
        Refusal: The shapes differ.
    """
    if source.shape != normal.shape:
        raise Refusal(
            f"`{source.name}` should hold images of shape {list(normal.shape)} [C, H, W], as `normal` does. "
            f"Got `{source.name}` with {list(source.shape)}. Give a `transform` that brings all to one size and "
            "the same channels, e.g. torchvision.transforms.v2.Resize with size [32, 32], v2.RGB or v2.Grayscale."
        )


def _relabelled(name: str, listing: Listing, classes: list[str]) -> Listing:
    unknown = [known for known in listing.classes if known not in classes]
    if unknown:
        raise Refusal(
            f"`{name}` should have the classes of `train`, {classes}. Got `{name}` with class `{unknown[0]}`. "
            "Rename its class folders, or give its images without classes, in a flat folder."
        )
    labels = [classes.index(listing.classes[label]) if label >= 0 else -1 for label in listing.labels]
    return dataclasses.replace(listing, labels=labels, classes=classes)
