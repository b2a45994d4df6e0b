"""The lock of a run folder: one run at a time. The system releases it when the process ends, in whatever way."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.files import check_writable, writing_refusal

RESULT_FOLDERS = ("checkpoints", "detectors", "figures", "guard", "logs")
_NAME = ".run.lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made, until the block ends.

    Refuses a folder that another run holds, or in which, or in a result folder of it, no file can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"`run_dir` should be a folder that can be made. Got `run_dir = {folder}`: {error.strerror}. Name another."
        ) from error
    for place in (folder, *(folder / name for name in RESULT_FOLDERS if os.path.lexists(folder / name))):
        check_writable(place, "--run_dir")
    path = folder / _NAME
    lock = FileLock(path, blocking=False)  # a `SoftFileLock` once it has met a file system without locks
    try:
        lock.acquire()
    except Timeout as error:
        raise Refusal(
            f"`run_dir` should be a folder in which no other run is at work. Got `run_dir = {folder}`, held by "
            f"{_holder(path)}. Wait for it, or name another folder."
        ) from error
    except OSError as error:
        raise writing_refusal(path, "--run_dir", error) from error
    try:
        if not isinstance(lock, SoftFileLock):  # which writes a text of its own
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        yield
    finally:
        with suppress(OSError):
            if not isinstance(lock, SoftFileLock):
                path.unlink()
        lock.release()


def is_lock(name: str) -> bool:
    """Whether a file's name is that of a lock."""
    return name == _NAME


def _holder(path: Path) -> str:
    with suppress(OSError):
        return " ".join(path.read_text(errors="replace")[:200].split()) or "another one"
    return "another one"
