"""Lists of image files as sources: OpenOOD's `benchmark_imglist` files, and plain lists of paths."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, Unparsable, printable, read_text
from lightning_gradood.data.source import FolderListing, Source

_BYTES = 500_000_000  # the list of ImageNet's training images takes 60 MB
_LABEL = re.compile(r"\s+(-?\d+)$")


@dataclass(frozen=True)
class ListSource(Source):
    """Image files that a text file names, one in each line: its path below `root`, a blank, and its class index.

    OpenOOD's lists are such files. A line without an index, as all lines of a plain list, and an index below 0 mean an
    unknown class. Empty lines are passed over, and a file that is named again is taken once; keys are the paths.

    Args:
        root: The folder that paths start from, e.g. OpenOOD's `data/images_classic`; `~` is expanded.
        list: The text file, e.g. `data/benchmark_imglist/cifar10/test_cifar10.txt`.

    Reference:
        Zhang et al., OpenOOD v1.5, 2023; its code, `openood/datasets/imglist_dataset.py`.
    """

    root: str
    list: str

    @override
    def open(self) -> FolderListing:
        file, root = Path(self.list).expanduser(), Path(self.root).expanduser()
        try:
            lines = [line.strip() for line in read_text(file, _BYTES).splitlines()]
        except (OSError, Unparsable) as error:
            raise Refusal(
                f"`list` should be a text file with the path of an image in each line. Got `list = {self.list}`, which cannot "
                f"be read ({getattr(error, 'strerror', None) or error}; looked at {file.absolute()}). Correct the path; "
                "OpenOOD's lists are in its `benchmark_imglist.zip`."
            ) from error
        entries = [_entry(line) for line in lines if line]
        labels = dict(entries)
        if missing := _missing(root, labels):
            raise Refusal(
                f"`list` should name images below `root`. Got `list = {self.list}`, of whose {len(labels):,} files "
                f"{len(missing):,} are missing in {root.absolute()}: {', '.join(f'`{printable(name)}`' for name in missing[:3])}"
                f"{', …' * (len(missing) > 3)}. {_where_from(missing, root)}"
            )
        again = len(entries) - len(labels)
        notes = (
            (f"{self.list}: {again:,} lines name a file that another line names, and are left out.",) if again else ()
        )
        keys, names = [printable(name) for name in labels], [*labels]
        return FolderListing(keys, [*labels.values()], [], root=root, names=names, notes=notes)


def _entry(line: str) -> tuple[str, int]:
    """Path and label of a line."""
    found = _LABEL.search(line)
    path = line[: found.start()] if found else line
    return os.path.normpath(path), max(int(found[1]), -1) if found else -1


def _missing(root: Path, names: Iterable[str]) -> Sequence[str]:
    """The files that are not there; each folder is read once, which is fast on shared disks, too."""
    names, present = [*names], set[str]()
    for folder in {os.path.dirname(name) for name in names}:
        with suppress(OSError):
            present.update(os.path.join(folder, name) for name in os.listdir(root / folder))
    return [name for name in names if name not in present]


def _where_from(missing: Sequence[str], root: Path) -> str:
    """Say how missing files get there."""
    folders = dict.fromkeys(name.split(os.sep)[0] for name in missing if os.sep in name)
    archives = " and ".join(f"`{name}.zip` in `{root / name}`" for name in [*folders][:3])
    below = (
        f"; of OpenOOD's lists, unpack {archives} (its scripts/download/download.py fetches them)" if folders else ""
    )
    return f"Put them there, or correct `root`{below}."
