"""Signals: a run that is asked to end does so within half a minute, with what was read from the network written first.

SIGTERM, Ctrl-C and a lost terminal raise `Stopped` in the main thread, wherever it is. (Lightning notes SIGTERM and looks at the
note in its training loop only; and its handler waits for the other processes, which may be waiting for this one.) Where the main
thread does not get to it, as it waits inside a collective operation or its exception is lost in a destructor, a second thread
ends the process.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 20.0
"""Seconds from a signal to the end at any price; Kubernetes, SLURM and torchrun kill after thirty."""
_TWICE = 1.0  # a second Ctrl-C after this many seconds is meant as one; earlier it is the same, sent to a group twice
_POLL = 1.0


class Stopped(SystemExit):
    """The process was asked to end.

    Args:
        why: completes a sentence that begins with the run: "stopped by SIGTERM".
        code: 128 + the signal's number, or an exit code.
        told: whether another process of the run said so, rather than a signal.

    Attributes:
        said: `code`, which the other processes are told; they exit as this one.
        run_dir: of a fit that can go on, once that is known.
    """

    def __init__(self, why: str, code: int, told: bool = False) -> None:
        super().__init__(143 if code == 128 + signal.SIGUSR1 else code)
        self.why, self.said, self.told = why, code, told
        self.run_dir: str | None = None

    @property
    def exit_code(self) -> int:
        """The exit code."""
        return int(self.code or 0)


class _State:
    """What is known of the end of this process; one for all, as signal handlers are."""

    def __init__(self) -> None:
        self.active = self.asked = False
        self.begun: float | None = None
        self.pending: Stopped | None = None
        self.listeners: list[Callable[[int], None]] = []

    def stopped(self, number: int) -> Stopped:
        """What is raised for a signal."""
        return self.pending or Stopped(f"stopped by {signal.Signals(number).name}", 128 + number)

    def tell(self, code: int) -> None:
        """Tell the other processes of the run."""
        for listener in self.listeners:
            listener(code)


_STATE = _State()


def stop(why: str, code: int) -> None:
    """Stop this process from any of its threads.

    Args:
        why: as for `Stopped`.
        code: exit code.
    """
    if _STATE.active and not _STATE.asked:
        _STATE.asked = True
        _STATE.pending = Stopped(why, code, told=True)
        os.kill(os.getpid(), signal.SIGTERM)


def on_stop(listener: Callable[[int], None]) -> None:
    """Call a function with the exit code as soon as this process is asked to end, from any thread and perhaps twice."""
    _STATE.listeners.append(listener)


def farewell(code: int) -> None:
    """Say to the other processes of the run how this one ends."""
    _STATE.tell(code)


@contextmanager
def stopping(whole_process: bool = False) -> Iterator[None]:
    """Raise `Stopped` where a signal arrives that asks the process to end.

    Signals that are ignored stay so (`nohup`, background jobs). Outside the main thread, where Python handles no signals,
    nothing is changed.

    Args:
        whole_process: whether the process may be ended without the main thread's help, and belongs to a launcher with which
            it ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []),
    ]
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    _STATE.active, _STATE.asked, _STATE.begun, _STATE.pending = True, False, None, None
    for number in before:
        signal.signal(number, _stop)
    if whole_process:
        _watch_signals()
    try:
        yield
    finally:
        _STATE.active = False
        for number, handler in before.items():
            signal.signal(number, handler if not whole_process or _STATE.begun is None else _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    if _STATE.begun is None:
        _STATE.begun, _STATE.asked = time.monotonic(), True
        stopped = _STATE.stopped(number)
        _STATE.tell(stopped.said)
        raise stopped
    if number == signal.SIGINT and time.monotonic() > _STATE.begun + _TWICE:
        os._exit(130)


def _watch_signals() -> None:
    """Start the thread that ends the process where the main thread cannot, and that sees its launcher end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # Python writes there at once, also while C++ code waits
    os.register_at_fork(after_in_child=_leave_to_parent)
    parent = os.getppid() if _is_launched() else None
    threading.Thread(target=_end_at_any_price, args=(reading, parent), name="signals", daemon=True).start()


def _is_launched() -> bool:
    """Whether another program started this one as one of several; a shell's end is nothing to end for."""
    given = os.environ
    return (
        int(given.get("LOCAL_RANK", 0)) > 0 or "TORCHELASTIC_RUN_ID" in given or int(given.get("SLURM_NTASKS", 1)) > 1
    )


def _end_at_any_price(reading: int, parent: int | None) -> None:
    number = 0
    while number not in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        if select.select([reading], [], [], _POLL)[0]:
            number = os.read(reading, 1)[0]
        elif parent is not None and os.getppid() != parent:
            stop("its launcher has ended", 143)
            parent = None
    _STATE.asked = True
    stopped = _STATE.stopped(number)
    _STATE.tell(stopped.said)
    time.sleep(PATIENCE)
    os._exit(stopped.exit_code)


def _leave_to_parent() -> None:
    """Keep workers of data loaders, which are forked, from handling signals as the program does: it ends them."""
    if _STATE.active:
        signal.set_wakeup_fd(-1)
        _STATE.active = False
        _STATE.listeners.clear()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
