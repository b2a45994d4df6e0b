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

from lightning_gradood.cli.verbs import Stopped

_PATIENCE = 20.0  # seconds from a signal to the end at any price: Kubernetes, SLURM and torchrun kill after thirty
_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *[signal.SIGUSR1] * ("SLURM_JOB_ID" in os.environ)]
_ending, _children = threading.Event(), list[subprocess.Popen[bytes]]()  # what Lightning has started from this process


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` at the first signal; where this process fails, the others end with it, and their refusal's code counts."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` leaves it
            signal.signal(number, _stop)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_pass_on, args=(reading,), daemon=True).start()
    # Python gives signals their defaults back while it takes itself apart, which would change the exit code
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS])
    if "LOCAL_RANK" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a launcher that is killed passes nothing on
    try:
        yield
    finally:
        _ending.set()
        error = sys.exception()
        if error is not None and getattr(error, "code", True):
            _tell(signal.SIGTERM)
            if _children and sys.modules["torch"].distributed.is_initialized():
                sys.modules["torch"].distributed.destroy_process_group()  # ends collective operations of theirs
        for one in _children:
            with suppress(subprocess.TimeoutExpired):
                if 0 < (code := one.wait(_PATIENCE)) < 128 and isinstance(error, Stopped):
                    raise SystemExit(code) from error


def share_signals(trainer: Any) -> None:
    """Take a Trainer's processes over from Lightning, which waits for all at a signal, and kills all once one has ended."""

    def take_over() -> None:  # where a loop starts
        while getattr(trainer.strategy.launcher, "procs", []):
            _children.append(trainer.strategy.launcher.procs.pop())

    trainer._signal_connector.register_signal_handlers = take_over


def _stop(number: int, _frame: Any) -> None:
    if not _ending.is_set():  # else the other processes pass it on
        _ending.set()
        raise Stopped(number)


def _pass_on(reading: int) -> None:  # in a second thread, as the main one may wait for another process, in C++
    while (number := os.read(reading, 1)[0]) not in _SIGNALS:
        pass
    _tell(number)
    time.sleep(_PATIENCE)
    os._exit(Stopped(number).exit_code)


def _tell(number: int) -> None:
    """Send a signal to the processes that were started from this one, or to the one from which this one was."""
    for one in _children:
        one.send_signal(number)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.kill(os.getppid(), number)
