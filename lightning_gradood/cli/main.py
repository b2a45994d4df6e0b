"""The entry of the program, signals, and refusals as one sentence; nothing heavy is imported before the verb is known.

`stopping` makes a plain `kill` end a run at once, with what was read from the network written first. (Lightning notes SIGTERM and
looks at the note in its training loop only; a predict loop of hours would go on.)
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn

from lightning_gradood import __version__
from lightning_gradood.cli.verbs import overview

_ALONE = {  # verbs without an experiment
    verb: f"lightning_gradood.cli.{verb}" for verb in ("score", "drift", "compare", "configs", "dashboard")
}
_SIGPIPE = 141  # exit code, as of other programs in a pipe
_NOTHING = "stopped by {}. No file was written."


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb, e.g. `main(["fit", "--config", "configs/digits.yaml"])`.

    Args:
        args: words of the command line; those of the process by default.

    Raises:
        SystemExit: with code 2 after one sentence on standard error, where the input is refused; with 143 after
            SIGTERM; after Ctrl-C with 1 from Lightning's loops and 130 from elsewhere; with 3 and 4 from `score` and
            `drift`, see there.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words in (["--help"], ["-h"]):
        sys.stdout.write(f"{overview()}\n")
        sys.exit(0)
    if words == ["--version"]:
        sys.stdout.write(f"lightning_gradood {__version__}\n")
        sys.exit(0)
    if words and words[0] in _ALONE:
        run_alone(words[0], words[1:])
        return
    from lightning_gradood.cli.program import run_program

    run_program(args)


def run_alone(verb: str, words: Sequence[str]) -> None:
    """Run a verb that needs no experiment.

    Args:
        verb: its name.
        words: of the command line behind it.
    """
    from lightning_gradood.core import Refusal

    try:
        with stopping():
            code: int = getattr(import_module(_ALONE[verb]), verb)(words)
    except Refusal as refusal:
        end(str(refusal))
    except Stopped:
        end(_NOTHING.format("SIGTERM"), 143)
    except KeyboardInterrupt:
        end(_NOTHING.format("Ctrl-C"), 130)
    except BrokenPipeError:  # whoever read standard output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_SIGPIPE)
    if code:
        sys.exit(code)


def end(sentence: str, code: int = 2) -> NoReturn:
    """Leave the program with a sentence on standard error."""
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


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
