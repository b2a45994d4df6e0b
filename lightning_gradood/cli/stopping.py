"""Signals: SIGTERM, Ctrl-C, a lost terminal and, under SLURM, SIGUSR1 raise `Stopped`, wherever the main thread is."""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

_PATIENCE = 20.0  # seconds from a signal to the end at any price: Kubernetes, SLURM and torchrun kill after thirty
_TWICE = 1.0  # a second Ctrl-C after so many seconds ends the process at once; sooner, the first one came twice
_NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *[signal.SIGUSR1] * ("SLURM_JOB_ID" in os.environ)]


class Stopped(SystemExit):
    """The process was asked to end; `kept` is the sentence that follows the signal's name."""

    kept = "No file was written."

    def __init__(self, number: int) -> None:
        self.signal, self.exit_code = signal.Signals(number).name, 143 if number == signal.SIGUSR1 else 128 + number
        super().__init__(self.exit_code)

    def __str__(self) -> str:
        return f"stopped by {self.signal}"


class _Process:
    begun: float | None = None  # when it began to end
    launcher: Any = None
    started: tuple[subprocess.Popen[bytes], ...] = ()  # by the launcher


@contextmanager
def stopping(whole_process: bool = False) -> Iterator[None]:
    """Raise `Stopped` where a signal asks the process to end; signals that are ignored stay so (`nohup`).

    Args:
        whole_process: whether the process ends with the block, and with it those that Lightning started.
    """
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
        before = {}
    _Process.begun = None
    for number, handler in before.items():
        signal.signal(number, _stop if handler != signal.SIG_IGN else handler)
    if whole_process:
        _watch()
    try:
        yield
    finally:
        if whole_process:
            _leave(sys.exception())
        else:
            for number, handler in before.items():
                signal.signal(number, handler)


def share_signals(trainer: Any) -> None:
    """Pass signals on to the processes that a Trainer starts, without its own handler, which waits for all of them."""
    trainer._signal_connector.register_signal_handlers = lambda: None
    _Process.launcher = trainer.strategy.launcher or _Process.launcher  # the first Trainer of several starts them


def is_first() -> bool:
    """Whether this is the first of the run's processes, as its launcher says."""
    ranks = [os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ]
    return ranks[:1] in ([], ["0"])


def end(sentence: str, code: int = 2) -> NoReturn:
    """Leave the program with a sentence on standard error."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is not None and tqdm.tqdm._instances:  # a bar stands in the last line
        sys.stderr.write("\n")
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


def _stop(number: int, _frame: FrameType | None) -> None:
    if _Process.begun is None:
        _Process.begun = time.monotonic()
        raise Stopped(number)
    if number == signal.SIGINT and time.monotonic() > _Process.begun + _TWICE:
        os._exit(130)


def _watch() -> None:
    """Hear of signals in a second thread, and of the end of a launcher that was killed."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # Python writes there also while C++ code waits
    threading.Thread(target=_pass_on, args=(reading,), name="signals", daemon=True).start()
    atexit.register(_ignore)
    if "LOCAL_RANK" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _ignore() -> None:
    """Keep the exit code while Python takes the program apart, for which it gives signals their defaults back."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _pass_on(reading: int) -> None:
    """Pass the first signal on, and end the process where its main thread does not: it may wait for another process."""
    number = 0
    while number not in _NUMBERS:
        number = os.read(reading, 1)[0]
    _tell(number)
    time.sleep(_PATIENCE)
    os._exit(Stopped(number).exit_code)


def _tell(number: int) -> None:
    """Send a signal to the processes that Lightning started from this one, or to the one from which it started this one."""
    for one in _started():
        one.send_signal(number)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.kill(os.getppid(), number)


def _started() -> tuple[subprocess.Popen[bytes], ...]:
    """Take the processes from Lightning's observer, which would kill this one as soon as one of them has ended."""
    procs = getattr(_Process.launcher, "procs", [])
    _Process.started += tuple(one for one in procs if isinstance(one, subprocess.Popen))
    procs.clear()
    return _Process.started


def _leave(error: BaseException | None) -> None:
    """Wait for the processes that Lightning started; where one of them has refused or failed, its exit code counts."""
    _Process.begun = _Process.begun or time.monotonic()  # what they pass on says nothing new
    if error is not None and getattr(error, "code", True):
        _tell(signal.SIGTERM)
        torch = sys.modules.get("torch")
        if _started() and torch is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # a collective operation in which one waits for this process ends
    for one in _started():
        with suppress(subprocess.TimeoutExpired):
            code = one.wait(_PATIENCE)
            if isinstance(error, Stopped) and 0 < code < 128:
                raise SystemExit(code) from error
