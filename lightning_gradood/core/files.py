"""Files that appear whole or not at all, and the sentence for a place that cannot be written."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lightning_gradood.core.errors import Unwritable

_ADVICE = {  # what to do, by what the operating system says
    "Free some space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Ask for the right to write there": (errno.EACCES, errno.EPERM, errno.EROFS),
    "Move away what has that name": (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    "Give it a shorter or plainer name": (errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EINVAL),
    "See whether its disk is still there": (
        *(errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT),
        *(errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO, errno.ESHUTDOWN, errno.EBADF),
    ),
    "Close what keeps files open": (errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.ETXTBSY),
}
_FIX = {number: fix for fix, numbers in _ADVICE.items() for number in numbers}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")


@contextmanager
def atomic_write(path: Path, flag: str = "--run_dir") -> Iterator[BinaryIO]:
    """Yield a new binary file that takes the place of `path` once it is complete; raise `Unwritable`, naming `flag`.

    The bytes go to a temporary file in the same folder (which is made), because a rename is atomic only within one file
    system. If the block raises, or the disk is full, an older file at `path` stays as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_text()
    'whole'
    """
    # a random name: other threads, processes and machines may write the same file
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with writing_refused(path, flag, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # on a lost disk; the error that was raised before it counts
                temporary.unlink(missing_ok=True)


@contextmanager
def writing_refused(path: Path, flag: str, *others: Path) -> Iterator[None]:
    """Raise a failure to write `path` as `Unwritable`; failures that name files elsewhere pass."""
    try:
        yield
    except OSError as error:
        ours = {str(one) for one in (path, *others, *path.parents)}
        if error.errno not in _FIX or (error.filename is not None and str(error.filename) not in ours):
            raise
        raise writing_refusal(path, flag, error) from error


def writing_refusal(path: Path | str, flag: str, error: OSError) -> Unwritable:
    """Word a failure to write."""
    fix = _FIX.get(error.errno or 0, "See what is wrong with it")
    return Unwritable(
        f"`{flag}` should be a place that can be written. Got {path}: {error.strerror or error}. {fix}, or name another, and "
        "run the same command again: nothing half-written is left, and what was written before is kept."
    )


def is_writing_error(error: OSError) -> bool:
    """Whether an error is of a kind that only writing meets: a full or read-only disk."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def check_writable(folder: Path, flag: str, size: int = 0) -> None:
    """Raise `Unwritable` for a folder in which no file can be made or with less than `size` bytes free."""
    trial = folder / f".trial.{uuid.uuid4().hex[:12]}.tmp"  # a name that no file has
    with atomic_write(trial, flag) as file:
        file.write(b"\0" * 4096)
    with suppress(OSError):
        trial.unlink()
    free = shutil.disk_usage(folder).free
    if free < size:
        raise Unwritable(
            f"`{flag}` should have room for at least {size / 1e6:.1f} MB. Got {folder} with {free / 1e6:.1f} MB free. Free "
            "some space, or name another."
        )


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `atomic_write` gives, which a killed process may have left.

    >>> is_temporary(".config.yaml.0123456789ab.tmp"), is_temporary("mine.tmp")
    (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None
