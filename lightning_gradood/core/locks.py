"""The lock of a run folder: one run at a time, and none is kept out by a run that has died.

Only the creation of files that must not exist (`O_EXCL`) is relied on, which holds on network file systems too. Locks are
numbered: whoever finds that the holder of the highest one has died creates the next, which one process alone can, and the
highest counts.
"""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.files import check_writable
from lightning_gradood.core.progress import say
from lightning_gradood.core.text_files import read_json

_NAME = re.compile(r"\.run-(\d+)\.lock")
_BEAT = 20.0  # seconds between two signs of life
_SILENT = 180.0  # after so many without one, a run on another machine counts as dead
RESULT_FOLDERS = ("checkpoints", "detectors", "figures", "guard", "logs")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Args:
        host: the machine's name.
        pid: of the process.
        since: when it began, as text.
        machine: start of the machine and its process ids' namespace: where pids mean the same.
        ticks: start of the process in the machine's own clock, as pids are used again; empty where it is not known.
    """

    host: str
    pid: int
    since: str
    machine: str
    ticks: str


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        Refusal: another run holds it, or it, or a folder for results in it, cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"`run_dir` should be a folder that can be made. Got `run_dir = {folder}`: {error.strerror}. Name another."
        ) from error
    for place in (folder, *(folder / name for name in RESULT_FOLDERS if os.path.lexists(folder / name))):
        check_writable(place, "--run_dir")
    mine = _acquire(folder)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(mine, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with suppress(OSError):
            mine.unlink(missing_ok=True)


def is_lock(name: str) -> bool:
    """Whether a file's name is that of a lock."""
    return _NAME.fullmatch(name) is not None


def _acquire(folder: Path) -> Path:
    while True:
        locks = _locks(folder)
        if locks:
            _refuse_alive(folder, locks[-1])
        number = 1 + (_number(locks[-1]) if locks else 0)
        mine = folder / f".run-{number}.lock"
        try:
            with mine.open("x") as file:
                json.dump(asdict(_myself()), file)
        except FileExistsError:  # another run was quicker: look who it is
            continue
        higher = [path for path in _locks(folder) if _number(path) > number]
        if higher:  # the listing was out of date
            mine.unlink(missing_ok=True)
            continue
        for path in locks:
            path.unlink(missing_ok=True)
        return mine


def _refuse_alive(folder: Path, lock: Path) -> None:
    """Refuse if the holder of a lock lives; say a line if it has died."""
    holder = _read(lock)
    if holder is None and not lock.exists():
        return
    dead = _is_dead(holder) if holder else None
    age = _age(lock)
    if dead is None:  # nobody here can tell
        dead = age is not None and age > _SILENT
    who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "an unknown run"
    if dead:
        say(f"{folder}: taken over from {who}, which has ended without leaving it.")
        return
    raise Refusal(
        f"`run_dir` should be a folder in which no other run is at work. Got `run_dir = {folder}`, held by {who}. Wait for "
        f"it, or name another folder. If it has died, delete {lock}."
    )


def _is_dead(holder: Holder) -> bool | None:
    """Whether a process has ended; None where it runs on a machine that cannot be asked from here."""
    here = _myself()
    if holder.host != here.host:
        return None
    if holder.machine != here.machine:
        restarted = holder.machine.split("/")[0] != here.machine.split("/")[0]
        return True if restarted else None  # else another container
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(holder.ticks) and holder.ticks != _ticks(holder.pid)  # a number that was used again, or a zombie


def _myself() -> Holder:
    machine = f"{_text('/proc/sys/kernel/random/boot_id')}/{_link('/proc/self/ns/pid')}"
    return Holder(
        socket.gethostname(), os.getpid(), f"{datetime.now():%Y-%m-%d %H:%M:%S}", machine, _ticks(os.getpid())
    )


def _ticks(pid: int) -> str:
    """Start of a process; empty for one that has ended and waits to be collected, or where the system has no /proc."""
    state, *others = _text(f"/proc/{pid}/stat").rpartition(")")[2].split() or [""]
    return others[18] if state not in ("Z", "X") and len(others) > 18 else ""


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def _link(path: str) -> str:
    with suppress(OSError):
        return os.readlink(path)
    return ""


def _read(lock: Path) -> Holder | None:
    """A lock's holder; None if it is not there or not yet written."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        content = read_json(lock)
        return Holder(**{one.name: one.type(content[one.name]) for one in fields(Holder)})  # type: ignore[operator]
    return None


def _age(lock: Path) -> float | None:
    """Seconds since a lock's last sign of life, by the clock of the disk's own machine."""
    now = lock.with_name(f".clock.{os.getpid():x}.tmp")
    with suppress(OSError):
        now.write_bytes(b"")
        try:
            return now.stat().st_mtime - lock.stat().st_mtime
        finally:
            now.unlink(missing_ok=True)
    return None


def _beat(lock: Path, ended: threading.Event) -> None:
    """Give a sign of life from time to time."""
    while not ended.wait(_BEAT):
        with suppress(OSError):
            os.utime(lock)


def _locks(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if is_lock(path.name)), key=_number)


def _number(lock: Path) -> int:
    found = _NAME.fullmatch(lock.name)
    return int(found[1]) if found else 0
