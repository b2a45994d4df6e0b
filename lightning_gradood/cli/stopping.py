"""What a plain `kill` does: the run ends at once, and what was read from the network is written on the way out.

Lightning notes SIGTERM and looks at the note in its training loop only; a predict loop of hours would go on.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """The process was asked to end."""


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` where SIGTERM arrives, as Ctrl-C raises KeyboardInterrupt; Lightning calls handlers that it finds.

    Outside the main thread, where Python handles no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped
