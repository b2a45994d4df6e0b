"""Folders of image files as a source, and the opening of sources by name."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_gradood.core import UNREADABLE, Refusal, Transform, named_seed, read_picture
from lightning_gradood.data.classes import Outputs, class_order, relabelled, relabelled_where_known
from lightning_gradood.data.datasets import GIB, LoadedSource
from lightning_gradood.data.source import Listing, Source
from lightning_gradood.data.splits import split_rows


@dataclass(frozen=True)
class Opening:
    """Opens sources, all with the same transform and limits.

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
        classes: Outputs | None = None,
        flag: str = "",
    ) -> LoadedSource:
        """Open a source.

        Args:
            name: The source's name.
            source: The source, or the path of a folder.
            limit: The most images to take; a stratified random subset in the source's order. None for all.
            classes: The classifier's outputs by name, into which labels become indices.
            flag: What the user named them with, whose list is complete; empty for names that came with the network, where
                a class that is not among them has no label.

        Raises:
            Refusal: The source cannot be opened, is empty, or has classes the classifier does not know.
        """
        listing = (FolderSource(source) if isinstance(source, str) else source).open()
        if not listing.keys:
            raise Refusal(f"`{name}` should hold images. Got `{name}` with none. Point it at a source that has some.")
        if classes and classes.names and listing.classes != classes.names:
            listing = (
                relabelled(name, listing, classes, flag) if flag else relabelled_where_known(name, listing, classes)
            )
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


LAYOUTS = "either one sub-folder per class (`root/<class>/image.png`) or the images themselves"


class FolderSource(Source):
    """Image files below a folder: one sub-folder per class, as torchvision's `ImageFolder` reads them, or no classes.

    Classes are the names of the sub-folders, sorted, by number where they differ in a number alone (`10` behind `9`); files
    may lie at any depth below them. A flat folder gives images of unknown class (-1). Files and folders whose name starts
    with a dot are passed over: systems leave their own notes there. Every image is converted to RGB.

    Args:
        root: The folder, absolute or relative to the working directory; `~` is expanded.

    Example:
        >>> FolderSource("photos").root
        'photos'
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def open(self) -> Listing:
        """List the image files.

        Raises:
            Refusal: The folder is missing, holds no images, mixes both layouts, or has a class without images.
        """
        root = Path(self.root).expanduser()
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise Refusal(
                f"`root` should be a folder of images. Got `root = {self.root}`, which {what} "
                f"(looked at {root.absolute()}). Correct the path, or put images there: {LAYOUTS}."
            )
        flat = _image_names(root)
        by_class = {folder.name: sorted(_image_files(folder)) for folder in _folders(root)}
        if flat and any(by_class.values()):
            raise Refusal(
                f"`root` should hold {LAYOUTS}. Got `root = {self.root}` with both, e.g. `{flat[0]}` "
                "beside class folders. Move the loose images into a class folder or elsewhere."
            )
        if flat:
            return FolderListing(keys=flat, labels=[-1] * len(flat), classes=[], root=root)
        return self._classed(root, by_class)

    def _classed(self, root: Path, by_class: dict[str, list[Path]]) -> Listing:
        if not any(by_class.values()):
            raise Refusal(
                f"`root` should hold images ({', '.join(IMG_EXTENSIONS)}). Got `root = {self.root}` with none "
                f"(looked at {root.absolute()}). Put images there: {LAYOUTS}."
            )
        empty = [name for name, files in by_class.items() if not files]
        if empty:
            raise Refusal(
                f"`root` should hold images for every class. Got `root = {self.root}` whose folder "
                f"`{empty[0]}` has none. Remove that folder or fill it."
            )
        pairs = [(path.relative_to(root).as_posix(), n) for n, files in enumerate(by_class.values()) for path in files]
        return FolderListing([key for key, _ in pairs], [label for _, label in pairs], list(by_class), root)


@dataclass(frozen=True)
class FolderListing(Listing):
    """Image files below `root`; keys are their relative paths."""

    root: Path

    def read(self, row: int) -> Image.Image:
        """Decode one file to RGB."""
        path = self.root / self.keys[row]
        try:
            return read_picture(path)
        except Refusal:
            raise
        except UNREADABLE as error:
            raise Refusal(
                f"`root` should hold readable images. Got `{path}`: {error}. "
                "Remove that file or replace it by a whole one."
            ) from error

    def path(self, row: int) -> str:
        """Its path below the source's root."""
        return str(self.root / self.keys[row])

    def fingerprint(self, row: int) -> bytes:
        """Return the SHA-256 of the file's bytes."""
        with open(self.root / self.keys[row], "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()


def _folders(root: Path) -> list[Path]:
    found = {path.name: path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    return [found[name] for name in class_order(found)]


def _image_names(folder: Path | str) -> list[str]:
    names = (entry.name for entry in os.scandir(folder) if entry.is_file())
    return sorted(name for name in names if not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS))


def _image_files(folder: Path) -> Iterator[Path]:
    for parent, folders, _ in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in _image_names(parent))
