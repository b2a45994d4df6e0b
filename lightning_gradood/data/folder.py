"""Folders of image files as a source, and the opening of sources by name."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    MEGAPIXELS,
    FiniteNonNegative,
    PassedOver,
    PixelLimit,
    PositiveFloat,
    PositiveInt,
    Refusal,
    Seed,
    Transform,
    Unreadable,
    find_image_files,
    image_suffixes,
    named_seed,
    printable,
    read_picture,
    refused_as,
    subfolders,
)
from lightning_gradood.data.classes import Outputs, class_order, relabelled, relabelled_where_known
from lightning_gradood.data.datasets import GIB, LoadedSource
from lightning_gradood.data.source import Listing, Source
from lightning_gradood.data.splits import split_rows
from lightning_gradood.records import NORMAL


@dataclass(frozen=True)
class Limits:
    """How many images are taken, stratified by class, and how large they may be.

    Args:
        images: The most images of each detection source; None for all.
        sources: The most images of single ones, by name, attacks and corruptions too, of which each split gives its
            share.
        seed: Chooses the images, so that the same ones can be split in several ways.
        memory_gib: Sources with at most this many GiB of pixels are decoded once and kept.
        megapixels: Larger image files are refused before they are decoded.
    """

    images: PositiveInt | None = None
    sources: dict[str, PositiveInt] | None = None
    seed: Seed = 0
    memory_gib: FiniteNonNegative = 2.0
    megapixels: PositiveFloat = MEGAPIXELS

    def of(self, source: str) -> int | None:
        """The most images of a source that is opened; None for all."""
        return None if source == "train" else (self.sources or {}).get(source, self.images)


@dataclass(frozen=True)
class Opening:
    """Opens sources, all with the same transform and limits."""

    transform: Transform | None = None
    limits: Limits = field(default_factory=Limits)

    def load(self, name: str, source: Source | str, classes: Outputs | None = None, flag: str = "") -> LoadedSource:
        """Open a source, or the folder of a path; a limit takes a stratified random subset in the source's order.

        Labels become indices into `classes`, the classifier's outputs by name. With `flag`, which the user named them
        with, the list is complete; without it a class that is not among them has no label.
        """
        key = name if name in ("train", NORMAL) else f"anomalies.{name}"
        with refused_as(root=f"data.{key}"):
            listing = (FolderSource(source) if isinstance(source, str) else source).open()
        if isinstance(listing, FolderListing):
            listing = self._told(name, listing)
        if not listing.keys:
            raise Refusal(f"`{name}` should hold images. Got `{name}` with none. Point it at a source that has some.")
        if classes and classes.names and listing.classes != classes.names:
            listing = (
                relabelled(name, listing, classes, flag) if flag else relabelled_where_known(name, listing, classes)
            )
        rows = np.arange(len(listing.keys))
        limit = self.limits.of(name)
        if limit is not None and limit < len(rows):
            share = limit / len(rows)
            rows = split_rows(listing.labels, [share, 1 - share], named_seed(self.limits.seed, f"limit/{name}"))[0]
        return LoadedSource(name, listing, self.transform, rows, int(self.limits.memory_gib * GIB))

    def _told(self, name: str, listing: "FolderListing") -> "FolderListing":
        for note in listing.notes:
            rank_zero_info(f"{name}: {note}")
        limit = PixelLimit(self.limits.megapixels, "--data.limits.megapixels")
        return dataclasses.replace(listing, limit=limit)


def refuse_other_shape(source: LoadedSource, normal: LoadedSource) -> None:
    """Refuse a source whose images have another shape than the normal source's."""
    if source.shape != normal.shape:
        raise Refusal(
            f"`{source.name}` should hold images of shape {list(normal.shape)} [C, H, W], as `normal` does. "
            f"Got `{source.name}` with {list(source.shape)}. Give a `transform` that brings all to one size and "
            "the same channels, e.g. torchvision.transforms.v2.Resize with size [32, 32], v2.RGB or v2.Grayscale."
        )


LAYOUTS = "either one sub-folder per class (`root/<class>/image.png`) or the images themselves"


class FolderSource(Source):
    """Image files below a folder: one sub-folder per class, as torchvision's `ImageFolder` reads them, or no classes.

    Classes are the names of the sub-folders, sorted, by number where they differ in a number alone (`10` behind `9`);
    files may lie at any depth below them. A flat folder gives images of unknown class (-1), and so do images that lie
    beside class folders. A class folder without images keeps its place among the classes. Every suffix that Pillow or
    an installed plugin of it reads is an image's; of several frames the first is taken, turned upright as EXIF says,
    and converted to RGB. Other suffixes, names that start with a dot, files of operating systems, broken links and
    pipes are passed over and counted in one line.

    Args:
        root: The folder, absolute or relative to the working directory; `~` is expanded.

    Example:
        >>> FolderSource("photos").root
        'photos'
    """

    def __init__(self, root: str) -> None:
        self.root = root

    @override
    def open(self) -> "FolderListing":
        root = Path(self.root).expanduser()
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise Refusal(
                f"`root` should be a folder of images. Got `root = {self.root}`, which {what} "
                f"(looked at {root.absolute()}). Correct the path, or put images there: {LAYOUTS}."
            )
        passed = PassedOver()
        folders = class_order(subfolders(str(root), passed))
        by_class = {name: list(find_image_files(str(root / name), passed)) for name in folders}
        loose = list(find_image_files(str(root), passed, deep=False))
        if not loose and not any(by_class.values()):
            raise self._empty(root, passed)
        classes = list(by_class) if any(by_class.values()) else []
        pairs = [(file, -1) for file in loose]
        pairs += [(file, label) for label, name in enumerate(classes) for file in by_class[name]]
        names = [os.path.relpath(file, root) for file, _ in pairs]
        return FolderListing(
            keys=[printable(Path(name).as_posix()) for name in names],
            labels=[label for _, label in pairs],
            classes=[printable(name) for name in classes],
            root=root,
            names=names,
            notes=_notes(str(root), passed, loose if classes else [], [name for name in classes if not by_class[name]]),
        )

    def _empty(self, root: Path, passed: PassedOver) -> Refusal:
        left = passed.sentence("It")
        return Refusal(
            f"`root` should hold images ({', '.join(sorted(image_suffixes()))}). Got `root = {self.root}` with none "
            f"(looked at {root.absolute()}). {f'{left} ' if left else ''}Put images there: {LAYOUTS}."
        )


def _notes(place: str, passed: PassedOver, loose: list[str], empty: list[str]) -> tuple[str, ...]:
    """What a user should know of the folder, a line each."""
    notes = [passed.sentence(place)]
    if loose:
        example = printable(os.path.basename(loose[0]))
        notes.append(f"{len(loose):,} images beside the class folders, e.g. `{example}`, have no class.")
    if empty:
        shown = ", ".join(f"`{printable(name)}`" for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        notes.append(f"class folders without images keep their place among the classes: {shown}.")
    return tuple(filter(None, notes))


_READING = b"EXIF's orientation applied"  # part of each file's fingerprint: another way of reading gives other pixels


@dataclass(frozen=True)
class FolderListing(Listing):
    """Image files below `root`."""

    root: Path
    names: list[str]  # paths below it; `keys` are these as posix paths in which bytes that are no UTF-8 are escaped
    notes: tuple[str, ...] = ()  # what a user should know of it, a line each
    limit: PixelLimit | None = None  # how large an image may be

    @override
    def read(self, row: int) -> Image.Image:
        path = self.root / self.names[row]
        try:
            return read_picture(path, limit=self.limit)
        except Unreadable as error:
            raise self._unreadable(path, str(error).partition(". Got: ")[2].rstrip(".")) from error

    @override
    def path(self, row: int) -> str:
        return printable(str(self.root / self.names[row]))

    @override
    def fingerprint(self, row: int) -> bytes:
        path = self.root / self.names[row]
        try:
            with open(path, "rb") as file:
                return hashlib.sha256(_READING + hashlib.file_digest(file, "sha256").digest()).digest()
        except OSError as error:
            raise self._unreadable(path, error.strerror) from error

    def _unreadable(self, path: Path, reason: str | None) -> Refusal:
        return Refusal(
            f"`root` should hold readable images. Got `{printable(str(path))}`: {reason or 'it is gone'}. "
            "Remove that file or replace it by a whole one."
        )
