"""Signals: SIGTERM, Ctrl-C, a lost terminal and, under SLURM, SIGUSR1 raise `Stopped` in every process of a run."""

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
from typing import Any

_PATIENCE = 20.0  # seconds from a signal to the end at any price: Kubernetes, SLURM and torchrun kill after thirty
_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *[signal.SIGUSR1] * ("SLURM_JOB_ID" in os.environ)]
_ending = threading.Event()
_launchers, _started = list[Any](), list[subprocess.Popen[bytes]]()


class Ended(SystemExit):
    """The program ends with an exit code, and with a sentence on standard error."""

    def __init__(self, sentence: str, exit_code: int = 2) -> None:
        super().__init__(exit_code)
        self.sentence, self.exit_code = sentence, exit_code


class Stopped(Ended):
    """The process was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number).name
        super().__init__(
            f"stopped by {self.signal}. No file was written.", 143 if number == signal.SIGUSR1 else 128 + number
        )


@contextmanager
def stopping(whole_process: bool) -> Iterator[None]:
    """Raise `Stopped` at the first signal; with `whole_process` the run's other processes end together with this one."""
    _ending.clear()
    here = threading.current_thread() is threading.main_thread()  # Python handles signals there alone
    before = {number: signal.getsignal(number) for number in _SIGNALS if here}
    for number, handler in before.items():
        signal.signal(number, handler if handler == signal.SIG_IGN else _stop)  # what is ignored stays so (`nohup`)
    if whole_process:
        _listen()
    try:
        yield
    finally:
        if whole_process:
            _leave(sys.exception())
        else:
            for number, handler in before.items():
                signal.signal(number, handler)


def share_signals(trainer: Any) -> None:
    """End a Trainer's processes as this module does, and not by Lightning's handler, which waits for all of them."""
    trainer._signal_connector.register_signal_handlers = lambda: None
    _launchers.append(trainer.strategy.launcher)


def _stop(number: int, _frame: Any) -> None:
    if not _ending.is_set():  # else the other processes pass it on
        _ending.set()
        raise Stopped(number)


def _ignore() -> None:
    """Keep the exit code while Python takes itself apart, for which it gives signals their defaults back."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _listen() -> None:
    """Hear of signals in a second thread: the main one may wait for another process, in C++."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    atexit.register(_ignore)
    threading.Thread(target=_pass_on, args=(reading,), daemon=True).start()
    if "LOCAL_RANK" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a launcher that is killed passes nothing on


def _pass_on(reading: int) -> None:
    while (number := os.read(reading, 1)[0]) not in _SIGNALS:
        pass
    _tell(number)
    time.sleep(_PATIENCE)
    os._exit(Stopped(number).exit_code)


def _tell(number: int) -> None:
    """Send a signal to the processes that Lightning started from this one, or to the one from which it started this one."""
    for one in _others():
        one.send_signal(number)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.kill(os.getppid(), number)


def _others() -> list[subprocess.Popen[bytes]]:
    """Take over the processes that Lightning started: its observer kills this one as soon as one of them has ended."""
    for launcher in _launchers:
        procs = getattr(launcher, "procs", [])
        _started.extend(one for one in procs if isinstance(one, subprocess.Popen))
        procs.clear()
    return _started


def _leave(error: BaseException | None) -> None:
    """Wait for the others, which end where this process fails; the code of one that has refused or failed counts."""
    _ending.set()
    if error is not None and getattr(error, "code", True):
        _tell(signal.SIGTERM)
        torch = sys.modules.get("torch")
        if _started and torch is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # ends collective operations of theirs
    for one in _others():
        with suppress(subprocess.TimeoutExpired):
            if 0 < (code := one.wait(_PATIENCE)) < 128 and isinstance(error, Stopped):
                raise SystemExit(code) from error
