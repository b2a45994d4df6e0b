"""What a run prints while it runs: progress of long loops, single lines about events, and its stages in the log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TextIO, TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
_QUIET = 10.0  # seconds after which a line comes although less than a percent was done


def say(line: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@cache
def say_once(line: str) -> None:
    """Print a line that this process has not printed so yet, as where one detector is fitted several times."""
    say(line)


def progress(
    items: Iterable[Item], description: str, total: int | None, unit: str, quiet: bool = False
) -> Iterator[Item]:
    """Yield the items and show on standard error how far the loop is; `total` is None where nobody knows."""
    if quiet or sys.stderr.isatty():
        yield from tqdm(items, desc=description, total=total, unit=f" {unit}", disable=quiet)
        return
    lines = ProgressLines(description, total, unit, sys.stderr)
    for item in items:
        yield item
        lines.advance()


class ProgressLines:
    """Write a line at once, for each percent and every ten seconds, or without `total` its rate, at most one in `seconds`."""

    def __init__(self, description: str, total: int | None, unit: str, stream: TextIO, seconds: float = 1.0) -> None:
        self.description, self.total, self.unit, self.stream, self.seconds = description, total, unit, stream, seconds
        self._done, self._percent = 0, -1
        self._start = self._last = time.perf_counter()

    def advance(self, number: int = 1, note: str = "") -> None:
        """Count units, and write a line if one is due."""
        self._done += number
        now = time.perf_counter()
        passed, due = now - self._start, now >= self._last + self.seconds
        if self.total is None:
            percent, rate = 0, self._done / max(passed, 1e-9)
            text = f"{self.description}: {self._done} {self.unit}, {rate:.0f} {self.unit}/s"
        else:
            percent = 100 * self._done // max(self.total, 1)
            due = (percent != self._percent and (due or self._done >= self.total)) or now >= self._last + _QUIET
            text = f"{self.description}: {percent} % ({self._done}/{self.total} {self.unit}), {passed:.0f} s"
        if due:
            self._percent, self._last = percent, now
            self.stream.write(f"{text}, {note}\n" if note else f"{text}\n")
            self.stream.flush()


LOG = logging.getLogger("lightning_gradood")
"""What is worth keeping of a run beyond its output; silent unless a handler is added, as the command line does."""

LOG.addHandler(logging.NullHandler())


@contextmanager
def stage(name: str, trainer: Any) -> Iterator[None]:
    """Name the block in a profiler's summary, as `gradood: <name>`, and log how long it took."""
    start, how = time.perf_counter(), "stopped after"
    try:
        with trainer.profiler.profile(f"gradood: {name}"):
            yield
        how = "took"
    finally:
        LOG.info("stage `%s` %s %.1f s", name, how, time.perf_counter() - start)


@contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Where the block fails, say in one line that `what` is left out, and go on."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        say(f"warning: {what} is left out: {type(error).__name__}: {reason}".rstrip(": "))
        LOG.warning("%s is left out", what, exc_info=True)
