"""Run one verb: interpolation in files, signals, warnings of other packages, and refusals as one sentence.

`stopping` makes a plain `kill` end a run at once, with what was read from the network written first. (Lightning notes SIGTERM and
looks at the note in its training loop only; a predict loop of hours would go on.) `interpolation` adds resolvers for `${...}`
in experiment files.
"""

import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

from jsonargparse import set_parsing_settings
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_gradood.cli.benchmark import benchmark
from lightning_gradood.cli.command import Command
from lightning_gradood.core import Refusal


@contextmanager
def interpolation() -> Iterator[None]:
    """Let files use `${key}` across files and after overrides, `${oc.env:NAME,default}` and `${div:8,255}`.

    Raises:
        Refusal: in place of OmegaConf's exceptions, which come as tracebacks.
    """
    OmegaConf.register_resolver("div", _div, replace=True)
    # without it each file would be resolved alone, and overrides (a sweep's too) would leave stale values behind
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        yield
    except OmegaConfBaseException as error:
        key = f" at `{error.full_key}`" if error.full_key else ""
        raise Refusal(
            f"The configuration should hold only interpolations that can be resolved. Got{key}: {_first_line(error)}. "
            "Define that key or variable, or give a default as in ${oc.env:NAME,default}."
        ) from error


def _div(numerator: int | float, denominator: int | float) -> float:  # OmegaConf warns of an int given for a float
    return numerator / denominator


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


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


_NOISE = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 meets torch 2.15
    "Checkpoint directory .* exists and is not empty",  # that of a run which goes on; whose it is was looked at before
    "LightningCLI's args parameter is intended",  # `benchmark` calls the other verbs so, with words of its own in sys.argv
    "Precision .* is not supported by the model summary",  # its estimate of megabytes under mixed precision
)
_KEPT = "stopped by {}. What was read from the network is kept; the same command reads only the rest."
_LEFT_ALONE = re.compile("Connection (closed|reset) by peer|Broken pipe")  # gloo's words where the other process ended


def run_program(args: Sequence[str] | None = None) -> None:
    """Run one verb, e.g. `run_program(["fit", "--config", "configs/digits.yaml"])`.

    Args:
        args: words of the command line; those of the process by default.

    Raises:
        SystemExit: with code 2 after one sentence on standard error, where the input is refused; with 143 after
            SIGTERM; after Ctrl-C with 1 from Lightning's loops and 130 from elsewhere.
    """
    _quieten()
    with ExitStack() as leaving:
        try:
            with stopping(), interpolation():
                words = sys.argv[1:] if args is None else list(args)
                if words[:1] == ["benchmark"]:  # calls other verbs, and has no model and data of its own
                    benchmark(words[1:])
                else:
                    Command(leaving, None if args is None else words)
        except Refusal as refusal:
            _end(str(refusal))
        except Stopped:
            _end(_KEPT.format("SIGTERM"), 143)
        except KeyboardInterrupt:
            _end(_KEPT.format("Ctrl-C"), 130)
        except RuntimeError as error:
            if not _LEFT_ALONE.search(str(error)):
                raise
            _end("another process of this run has ended; what it wrote says why.")


def _end(sentence: str, code: int = 2) -> NoReturn:
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


def _quieten() -> None:
    """Leave out what others say at every start and no user can do anything about."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Lightning recommends other products at every start, above the lines that matter."""
    return "Tip: For seamless cloud" not in record.getMessage()
