"""Files that appear whole or not at all, and the sentence for a full disk."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lightning_gradood.core.errors import Refusal


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once it is complete.

    The bytes go to a temporary file in the same folder (which is made), because a rename is atomic only within one file
    system. If the block raises, or the disk is full, an older file at `path` stays as it was.

    Args:
        path: the file to write.

    Yields:
        A binary file handle.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_text()
        'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # a thread's id, which is the process' for its first thread: two threads that write one file must not share it
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_full_refused(folder: Path) -> Iterator[None]:
    """Turn 'no space left' into a sentence; other failures of the disk pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refusal(
            f"The disk of {folder.parent} should have room for the records. Got: {error.strerror}. Free some space or name "
            "another place with --cache_dir, and run the same command again: what is already written is kept."
        ) from error
