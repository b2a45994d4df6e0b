"""Progress of long loops: a bar on a terminal, plain lines in a log file or pipe; and single lines about what happened."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at a stream that can redraw a line."""
    return stream.isatty()


def progress(items: Iterable[Item], description: str, total: int, unit: str, quiet: bool = False) -> Iterator[Item]:
    """Yield the items and show on standard error how far the loop is."""
    if quiet or is_terminal(sys.stderr):
        yield from tqdm(items, desc=description, total=total, unit=f" {unit}", disable=quiet)
        return
    lines = ProgressLines(description, total, unit, sys.stderr)
    for item in items:
        yield item
        lines.advance()


class ProgressLines:
    """Write one line whenever another percent of a step is done, at most one a second, and one at its end.

    Args:
        description: of the step.
        total: how many units there are.
        unit: what they are.
        stream: where the lines go.
        seconds: least time between two lines.
    """

    def __init__(self, description: str, total: int, unit: str, stream: TextIO, seconds: float = 1.0) -> None:
        self.description, self.total, self.unit, self.stream, self.seconds = description, total, unit, stream, seconds
        self._done = self._percent = 0
        self._start = self._last = time.perf_counter()

    def advance(self, number: int = 1, note: str = "") -> None:
        """Count units, and write a line if one is due."""
        self._done += number
        percent, now = 100 * self._done // max(self.total, 1), time.perf_counter()
        if percent == self._percent or (now < self._last + self.seconds and self._done < self.total):
            return
        self._percent, self._last = percent, now
        passed = now - self._start
        text = f"{self.description}: {percent} % ({self._done}/{self.total} {self.unit}), {passed:.0f} s"
        self.stream.write(f"{text}, {note}\n" if note else f"{text}\n")
        self.stream.flush()
