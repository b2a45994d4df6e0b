"""Finding image files below a folder: which suffixes are read, what is passed over, and how names are printed."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module

from PIL import Image

# EPS starts Ghostscript, a program that executes the file; the others are read by no code of Pillow's own
_NO_PICTURES = frozenset(["EPS", "PDF", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"])
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": "", "pillow_jxl": "", "pillow_jpegxl": ""}
"""Packages that teach Pillow further formats, with the function to call; importing the others is enough."""

_NEED_PLUGIN = {
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".avif": "pillow-avif-plugin",
    ".jxl": "pillow-jxl-plugin",
}
_LEFT_BY_SYSTEMS = frozenset(["__macosx", "thumbs.db", "desktop.ini"])
_SHOWN = 8


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, those of installed plugins among them."""
    for package, register in _PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(package)
            if register:
                getattr(plugin, register)()
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NO_PICTURES))


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of files that are taken from a folder."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def printable(name: str) -> str:
    r"""Write a file's name so that it can be printed and stored: bytes that are no UTF-8 become `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class PassedOver:
    """Counts of what stood in a folder and was not taken as an image.

    >>> passed = PassedOver()
    >>> passed.add("notes.TXT"), passed.add("notes"), passed.add("x.txt")
    (None, None, None)
    >>> passed.sentence("photos")
    'photos: passed over 2 .txt, 1 without a suffix.'
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file by its suffix."""
        suffix = os.path.splitext(name)[1].lower()
        self.count(printable(suffix) if suffix else "without a suffix")

    def count(self, kind: str) -> None:
        """Count something of a kind that is no suffix."""
        self.counts[kind] += 1

    def sentence(self, place: str) -> str:
        """Say in one line what was passed over; empty where nothing was."""
        if not self.counts:
            return ""
        kinds = self.counts.most_common()
        shown = [f"{number:,} {kind}{_hint(kind)}" for kind, number in kinds[:_SHOWN]]
        others = sum(number for _, number in kinds[_SHOWN:])
        return f"{printable(place)}: passed over {', '.join(shown)}{f' and {others:,} others' if others else ''}."


def _hint(kind: str) -> str:
    return f" (read where {_NEED_PLUGIN[kind]} is installed)" if kind in _NEED_PLUGIN else ""


def find_image_files(folder: str, passed: PassedOver, deep: bool = True) -> Iterator[str]:
    """Yield paths of image files in a folder in the order of their names, and count in `passed` what is no image.

    Links are followed, each real folder once, so that loops of links end. Counted are files that start with a dot or
    that systems leave behind (`Thumbs.db`, `__MACOSX`), links that lead nowhere, and what is no regular file.
    """
    yield from _found(folder, passed, deep, set())


def subfolders(folder: str, passed: PassedOver) -> list[str]:
    """Names of the folders in a folder, sorted, without those that are passed over; these are counted."""
    names = [name for name, kind in _entries(folder, passed) if kind == _FOLDER]
    found = [name for name in names if not _is_left_over(name)]
    passed.counts.update(_left_over_kind(name) for name in names if _is_left_over(name))
    return found


_FOLDER, _FILE = "folder", "file"


def _found(folder: str, passed: PassedOver, deep: bool, seen: set[tuple[int, int]]) -> Iterator[str]:
    with suppress(OSError):  # `_entries` reports it
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in seen:
            passed.count("links to a folder that was read already")
            return
        seen.add((about.st_dev, about.st_ino))
    for name, kind in _entries(folder, passed):
        path = os.path.join(folder, name)
        if kind == _FOLDER and not deep:
            continue
        if _is_left_over(name):
            passed.count(_left_over_kind(name))
        elif kind == _FOLDER:
            yield from _found(path, passed, deep, seen)
        elif kind != _FILE:
            passed.count(kind)
        elif os.path.splitext(name)[1].lower() in image_suffixes():
            yield path
        else:
            passed.add(name)


def _entries(folder: str, passed: PassedOver) -> list[tuple[str, str]]:
    """Names in a folder, sorted, with `_FOLDER`, `_FILE` or another kind."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _kind(entry)) for entry in entries)
    except OSError:
        passed.count(f"folders that cannot be read (`{printable(folder)}`)")
        return []


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        mode = entry.stat().st_mode
    except OSError:  # the target is missing, or is the link itself
        return "links that lead nowhere"
    if stat.S_ISDIR(mode):
        return _FOLDER
    return _FILE if stat.S_ISREG(mode) else "pipes, sockets or devices"


def _is_left_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def _left_over_kind(name: str) -> str:
    return "names that start with a dot" if name.startswith(".") else name
