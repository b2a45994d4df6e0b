"""Where a run starts and ends: experiment files by name, run folders, to which experiment one belongs, its lock; versions."""

import itertools
import os
import platform
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import yaml
from filelock import FileLock, SoftFileLock, Timeout

from lightning_gradood import __version__
from lightning_gradood.core.errors import Refusal, did_you_mean
from lightning_gradood.core.files import Unparsable, atomic_write, check_writable, is_temporary, read_yaml

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
_RESULT_FOLDERS = (CHECKPOINTS, "detectors", "figures", "guard", "logs")
_LOCK = ".run.lock"
_FREE = ("detection.on_bad_image",)  # settings that change no result
_CHOSEN = "LIGHTNING_GRADOOD_RUN_DIR"  # carries the run's folder to the processes that the first one launches
_PACKAGE = Path(__file__).parents[1]
_PACKAGES = ["torch", "torchvision", "lightning", "numpy", "scikit-learn", "advertorch", "pyarrow", "timm"]
_NAME = re.compile(r"[\w.\-/\\]+")  # what looks like a file's name; other text is YAML


def shipped_files(folder: str) -> dict[str, Path]:
    """Files of the package in `configs` or `sweeps`, sorted, by their names without `.yaml`.

    An installed package has the folder inside itself, a checkout beside itself.

    >>> sorted(shipped_files("sweeps"))[0]
    'attacks'
    """
    inside = _PACKAGE / folder
    place = inside if inside.is_dir() else _PACKAGE.parent / folder
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of those packages on which numbers depend that are installed."""
    found = {"lightning_gradood": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def experiment_file(given: str, key: str = "--config") -> str:
    """Return an existing path as it is, else the path of the shipped file of that name; else refuse, with the nearest.

    Shipped names are e.g. `digits`, `digits.yaml` or `configs/digits.yaml`; text that is no name is returned as it is.
    """
    if not _NAME.fullmatch(given) or Path(given).exists():
        return given
    known = shipped_files("configs")
    name = PurePath(given.replace("\\", "/"))
    if name.suffix in ("", ".yaml") and str(name.parent) in (".", "configs") and name.stem in known:
        return str(known[name.stem])
    raise Refusal(
        f"`{key}` should be an experiment file, or the name of one that comes with the package. Got `{key} {given}`, "
        f"which does not exist (looked at {Path(given).absolute()}). "
        + did_you_mean(name.stem, known, "`python -m lightning_gradood configs` lists the shipped ones.")
    )


@contextmanager
def new_run_folder(parent: Path) -> Iterator[Path]:
    """Make a folder named by the moment, e.g. `runs/digits/2026-11-22_14-05-09`, for this process and its children.

    Lightning starts a run's other processes with the same command line; they get the first one's folder. An empty
    folder is removed again. Refuses several processes of another launcher, which cannot agree on a name.
    """
    if _CHOSEN in os.environ:
        yield Path(os.environ[_CHOSEN])
        return
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        raise Refusal(
            "`run_dir` should be given where torchrun or a cluster starts the processes, so that all use the same. "
            "Got none. Add e.g. --run_dir runs/first."
        )
    moment = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for folder in (parent / f"{moment}{f'_{number}' * (number > 1)}" for number in itertools.count(1)):
        with suppress(FileExistsError):
            _make(folder, exist_ok=False)
            break
    os.environ[_CHOSEN] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[_CHOSEN]
        with suppress(OSError):  # it is not empty, or was removed
            folder.rmdir()


def refuse_foreign(folder: Path, config: Mapping[str, Any], identity: tuple[str, ...], earlier: bool = False) -> None:
    """Refuse a folder with other files, or whose configuration differs in the top-level keys `identity`.

    With `earlier` it has to be an earlier run's.
    """
    path = folder / CONFIG
    if path.is_file():
        theirs: Any = None
        with suppress(Unparsable):
            theirs = read_yaml(path)
        theirs = theirs if isinstance(theirs, Mapping) else {}  # so that it is no experiment's
        different = [name for key in identity for name in _differences(key, theirs.get(key), config.get(key))]
        if different := [name for name in different if name not in _FREE]:
            raise Refusal(
                f"`run_dir` should name a new folder or one of the same experiment. Got `run_dir = {folder}`, whose "
                f"{CONFIG} differs in {', '.join(different[:5])}. Name another folder, or none for a new one."
            )
    elif folder.exists() and not (
        # a run that was killed before it wrote its configuration leaves these
        folder.is_dir() and all(is_temporary(one.name) or one.name == _LOCK for one in folder.iterdir())
    ):
        raise Refusal(
            f"`run_dir` should name a new folder or an earlier run's. Got `run_dir = {folder}`, which is no folder or "
            f"holds other files and no {CONFIG}. Name another folder, or none for a new one."
        )
    elif earlier:
        raise Refusal(
            f"`run_dir` should be an earlier run's folder for this verb. Got `run_dir = {folder}`, which holds no {CONFIG}. "
            "Name a folder that `fit` or `detect` has filled, or leave it out and give --ckpt_path."
        )


def claim(folder: Path, config: Mapping[str, Any], identity: tuple[str, ...]) -> None:
    """Write the configuration into a folder, unless a run of the same experiment did; refuse foreign folders."""
    refuse_foreign(folder, config, identity)
    if not (folder / CONFIG).is_file():
        _make(folder)
        with atomic_write(folder / CONFIG) as file:
            file.write(yaml.safe_dump(dict(config), sort_keys=False).encode())


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made, until the block ends; the system lets go of a process that is killed.

    Refuses a folder that another run holds, or in which, or in a result folder of it, no file can be written.
    """
    _make(folder)
    for place in (folder, *(folder / name for name in _RESULT_FOLDERS if os.path.lexists(folder / name))):
        check_writable(place, "--run_dir")
    path = folder / _LOCK
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = " ".join(path.read_text(errors="replace")[:200].split())
        raise Refusal(
            f"`run_dir` should be a folder in which no other run is at work. Got `run_dir = {folder}`, held by "
            f"{holder or 'another one'}. Wait for it, or name another folder."
        ) from error
    try:
        if not isinstance(lock, SoftFileLock):  # which it becomes on a file system without locks, with its own text
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()


def _make(folder: Path, exist_ok: bool = True) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise Refusal(
            f"`run_dir` should be a folder that can be made. Got `run_dir = {folder}`: {error.strerror}. Name another."
        ) from error


def _differences(name: str, theirs: Any, mine: Any) -> list[str]:
    """Dotted names of the values in which two configurations differ."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        keys = dict.fromkeys([*theirs, *mine])
        return [found for key in keys for found in _differences(f"{name}.{key}", theirs.get(key), mine.get(key))]
    return [] if theirs == mine else [name]
