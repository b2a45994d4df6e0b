"""`run.log` in a run's folder: what ran on what, how long each stage took, and all that was said, warned of and refused."""

import logging
import os
import platform
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from lightning_gradood import __version__
from lightning_gradood.core import LOG

RUN_LOG = "run.log"
_LOGGERS = ("lightning_gradood", "lightning.pytorch", "lightning.fabric")
_PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-learn", "advertorch", "pyarrow")
_LINES = 3  # in a message: a table, such as Lightning's summary of a network, is left out
_SEEDS = ("seed_everything", "data.init_args.split.seed", "detection.seed")
_RECORDS = 10_000  # that are kept at most before the run has a folder


@contextmanager
def run_log() -> Iterator[Callable[[Path, Mapping[str, Any]], None]]:
    """Keep what is logged and warned of until the run has a folder of its own.

    Yields a function of the folder and the resolved configuration: it adds what was kept to `run.log`, and from then on
    each line.
    """
    kept = MemoryHandler(_RECORDS, flushLevel=logging.CRITICAL + 1)
    kept.setLevel(logging.INFO)
    kept.addFilter(lambda record: record.getMessage().count("\n") <= _LINES)
    loggers, level, show = [logging.getLogger(name) for name in _LOGGERS], LOG.level, warnings.showwarning

    def begin(folder: Path, configuration: Mapping[str, Any]) -> None:
        try:
            with (folder / RUN_LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(f"{line}\n" for line in _head(configuration))
            target = logging.FileHandler(folder / RUN_LOG, encoding="utf-8", errors="backslashreplace")
        except OSError:
            return
        target.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk ends no run
        target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        kept.setTarget(target)
        kept.capacity = 0  # nothing is kept back any more
        kept.flush()

    def showwarning(message: Warning | str, *more: Any, **named: Any) -> None:
        kept.handle(logging.LogRecord("warnings", logging.WARNING, "", 0, str(message), (), None))
        show(message, *more, **named)

    for one in loggers:
        one.addHandler(kept)
    LOG.setLevel(logging.INFO)
    warnings.showwarning = showwarning
    try:
        yield begin
    finally:
        for one in loggers:
            one.removeHandler(kept)
        LOG.setLevel(level)
        warnings.showwarning = show
        with suppress(OSError):  # of a disk that is full
            if kept.target is not None:
                kept.target.close()


def _head(configuration: Mapping[str, Any]) -> list[str]:
    """What a reader needs to repeat the run."""
    versions = {"lightning_gradood": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in _PACKAGES}
    seeds = {name: OmegaConf.select(OmegaConf.create(dict(configuration)), name) for name in _SEEDS}
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [
        f"# python -m lightning_gradood {shlex.join(sys.argv[1:])}",
        f"# versions: {', '.join(f'{name} {number}' for name, number in versions.items())}",
        f"# machine: {socket.gethostname()}, process {os.getpid()}, {platform.platform()}, {os.cpu_count()} processors, "
        f"{', '.join(gpus) or 'no GPU'}",
        f"# seeds: {', '.join(f'{name} {seed}' for name, seed in seeds.items())}",
    ]
