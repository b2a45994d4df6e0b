"""Where images come from, which split each is in, and how they reach the network.

A *source* (`FolderSource`, `ListSource`, `DatasetSource`, `DigitsSource`, `PhotoPatches`) is pure configuration; opening
it lists its images under keys that are the same on every machine. `ImageDataModule` mixes one normal source with named anomalous
ones, applies one deterministic transform once to every image, keeps small images decoded as uint8, and gives Lightning
batches of `ImageBatch` whose rows name the images. `sources.manifest` puts every image into the detectors' train, val or
test split, stratified and seeded, 40/40/20; a `Budget` takes some of them.

    >>> from lightning_gradood.data import DigitsSource, ImageDataModule, PhotoPatches
    >>> digits = list(range(9))
    >>> data = ImageDataModule(
    ...     train=DigitsSource(digits, part="train"),
    ...     normal=DigitsSource(digits, part="test"),
    ...     anomalies={"nine": DigitsSource([9]), "photographs": PhotoPatches()},
    ... )
    >>> data.sources.manifest.counts["photographs"]
    {'train': 208, 'val': 208, 'test': 104}
    >>> data.sources.clean["nine"].shape
    (3, 32, 32)
"""

from lightning_gradood.data.datamodule import ImageDataModule
from lightning_gradood.data.given_sources import PARTS, Given
from lightning_gradood.data.headers import file_differences
from lightning_gradood.data.image_lists import ListSource
from lightning_gradood.data.loading import ImageBatch, Limits, LoadedSource, RandomCropFlip
from lightning_gradood.data.mixture import BUILT_IN, Sources, open_source
from lightning_gradood.data.output_names import Outputs
from lightning_gradood.data.perturbed import Perturbations, PerturbedSource
from lightning_gradood.data.source import (
    DatasetSource,
    DigitsSource,
    FolderSource,
    Listing,
    PhotoPatches,
    Source,
    class_name,
    row_keys,
)
from lightning_gradood.data.splits import Budget, Manifest, Split, drawn_splits, split_rows

__all__ = [
    "BUILT_IN", "PARTS", "Budget", "DatasetSource", "DigitsSource", "FolderSource", "Given", "ImageBatch",
    "ImageDataModule", "Limits", "ListSource", "Listing", "LoadedSource", "Manifest", "Outputs", "Perturbations",
    "PerturbedSource", "PhotoPatches", "RandomCropFlip", "Source", "Sources", "Split", "class_name", "drawn_splits",
    "file_differences", "open_source", "row_keys", "split_rows",
]  # fmt: skip
