"""`run.log` in a run's folder: what ran on what, how long each stage took, and all that was said, warned of and refused."""

import logging
import os
import platform
import shlex
import socket
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TextIO

import torch

from lightning_gradood import __version__
from lightning_gradood.core import LOG

RUN_LOG = "run.log"
_LOGGERS = ("lightning_gradood", "lightning.pytorch", "lightning.fabric")
_PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-learn", "advertorch", "pyarrow")
_LINES = 3  # in a message
_SEEDS = ("seed_everything", "data.init_args.split_seed", "detection.seed")


class RunLog(logging.Handler):
    """Keeps what is logged and warned of, until the run has a folder of its own; from then on it writes it there.

    A run that goes on adds to the file of the earlier one. Where the file cannot be written the run goes on without it.

    Example:
        >>> with RunLog() as log:
        ...     LOG.info("kept")
        >>> log.lines[0].endswith("kept")
        True
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.lines: list[str] = []
        self._file: TextIO | None = None
        self._before: tuple[int, Any] = (LOG.level, None)

    def __enter__(self) -> Self:
        """Listen to our and Lightning's loggers, and to warnings."""
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)
        self._before = (LOG.level, warnings.showwarning)
        LOG.setLevel(logging.INFO)
        show = warnings.showwarning

        def showwarning(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
            """Show a warning as before, and keep it."""
            self.handle(logging.LogRecord("warnings", logging.WARNING, "", 0, str(message), (), None))
            show(message, category, *more, **named)

        warnings.showwarning = showwarning
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
        level, warnings.showwarning = self._before
        LOG.setLevel(level)
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        """Write what was kept so far, and from now on each line as it comes.

        Args:
            folder: of the run, which is there.
            configuration: resolved, for its seeds.
        """
        try:
            self._file = (folder / RUN_LOG).open("a", encoding="utf-8", errors="backslashreplace")
            self._file.write("".join(f"{line}\n" for line in [*_head(configuration), *self.lines]))
            self._file.flush()
        except OSError:  # it is of use to a reader, and no reason to end a run
            self._file = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        line = self.format(record)
        if line.count("\n") > _LINES:  # a table, such as Lightning's summary of a network or a profiler's
            return
        if self._file is None:
            self.lines.append(line)
            return
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError:
            self._file = None


def _head(configuration: Mapping[str, Any]) -> list[str]:
    """What a reader needs to repeat the run."""
    versions = {"lightning_gradood": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in _PACKAGES}
    seeds = {name: _found(configuration, name.split(".")) for name in _SEEDS}
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [
        f"# python -m lightning_gradood {shlex.join(sys.argv[1:])}",
        f"# versions: {', '.join(f'{name} {number}' for name, number in versions.items())}",
        f"# machine: {socket.gethostname()}, process {os.getpid()}, {platform.platform()}, {os.cpu_count()} processors, "
        f"{', '.join(gpus) or 'no GPU'}",
        f"# seeds: {', '.join(f'{name} {seed}' for name, seed in seeds.items())}",
    ]


def _found(configuration: Any, path: list[str]) -> Any:
    for name in path:
        configuration = configuration.get(name) if isinstance(configuration, Mapping) else None
    return configuration
