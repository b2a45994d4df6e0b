"""Run folders: where one experiment keeps its results, and to which experiment a folder belongs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.files import atomic_write, is_temporary
from lightning_gradood.core.locks import is_lock
from lightning_gradood.core.text_files import Unparsable, read_yaml

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
_FREE = ("detection.on_bad_image",)  # settings that change no result
_CHOSEN = "LIGHTNING_GRADOOD_RUN_DIR"  # carries the run's folder to the processes that the first one launches


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
    folder = _make_new(parent)
    os.environ[_CHOSEN] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[_CHOSEN]
        with suppress(OSError):  # it is not empty, or was removed
            folder.rmdir()


def refuse_foreign(folder: Path, config: Mapping[str, Any], identity: tuple[str, ...]) -> None:
    """Refuse a folder with other files, or whose configuration differs in the top-level keys `identity`."""
    path = folder / CONFIG
    if path.is_file():
        theirs = _read(path)
        different = [name for key in identity for name in _differences(key, theirs.get(key), config.get(key))]
        different = [name for name in different if name not in _FREE]
        if different:
            raise Refusal(
                f"`run_dir` should name a new folder or one of the same experiment. Got `run_dir = {folder}`, whose "
                f"{CONFIG} differs in {', '.join(different[:5])}. Name another folder, or none for a new one."
            )
    elif folder.exists() and (not folder.is_dir() or any(not is_own_trace(one.name) for one in folder.iterdir())):
        raise Refusal(
            f"`run_dir` should name a new folder or an earlier run's. Got `run_dir = {folder}`, which is no folder or "
            f"holds other files and no {CONFIG}. Name another folder, or none for a new one."
        )


def refuse_unclaimed(folder: Path, config: Mapping[str, Any], identity: tuple[str, ...]) -> None:
    """Refuse a folder that is not an earlier run's of the same experiment."""
    refuse_foreign(folder, config, identity)
    if not (folder / CONFIG).is_file():
        raise Refusal(
            f"`run_dir` should be an earlier run's folder for this verb. Got `run_dir = {folder}`, which holds no {CONFIG}. "
            "Name a folder that `fit` or `detect` has filled, or leave it out and give --ckpt_path."
        )


def claim(folder: Path, config: Mapping[str, Any], identity: tuple[str, ...]) -> None:
    """Write the configuration into a folder, unless a run of the same experiment did; refuse foreign folders."""
    refuse_foreign(folder, config, identity)
    path = folder / CONFIG
    if path.is_file():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(folder, error) from error
    with atomic_write(path) as file:
        file.write(yaml.safe_dump(dict(config), sort_keys=False).encode())


def is_own_trace(name: str) -> bool:
    """Whether a file may be left from a run that was killed before it wrote its configuration, or be its lock."""
    return is_temporary(name) or is_lock(name)


def _make_new(parent: Path) -> Path:
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _cannot_be_made(folder, error) from error
        else:
            return folder


def _cannot_be_made(folder: Path, error: OSError) -> Refusal:
    return Refusal(
        f"`run_dir` should be a folder that can be made. Got `run_dir = {folder}`: {error.strerror}. Name another."
    )


def _read(path: Path) -> Mapping[str, Any]:
    """A configuration; empty, so that it is no experiment's, if the file holds something else."""
    try:
        content = read_yaml(path)
    except Unparsable:
        return {}
    return content if isinstance(content, Mapping) else {}


def _differences(name: str, theirs: Any, mine: Any) -> list[str]:
    """Dotted names of the values in which two configurations differ."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        keys = dict.fromkeys([*theirs, *mine])
        return [found for key in keys for found in _differences(f"{name}.{key}", theirs.get(key), mine.get(key))]
    return [] if theirs == mine else [name]
