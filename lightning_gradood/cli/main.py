"""The entry of the program; nothing heavy is imported before the verb is known."""

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib import import_module

from lightning_gradood import __version__
from lightning_gradood.cli.stopping import stopping
from lightning_gradood.cli.verbs import ALONE, OVERVIEW, VERBS, Ended

_SIGPIPE = 141  # exit code, as of other programs in a pipe
# glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD keep large blocks for the next operation; by default the system takes
# each back and zeroes its pages again, which takes longer than a convolution (docs/performance.md)
_KEEP_BLOCKS = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1), "MALLOC_TOP_PAD_": (-2, 2**26)}


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb, e.g. `main(["fit", "--config", "configs/digits.yaml"])`.

    Args:
        args: words of the command line; those of the process by default.

    Raises:
        SystemExit: with code 2 after one sentence on standard error, where the input is refused; with 143 after
            SIGTERM, 130 after Ctrl-C and 129 where the terminal is lost; with 3 and 4 from `score` and `drift`, see there.
    """
    if args is None:
        with suppress(AttributeError, TypeError):  # another C library; Windows
            for variable, option in _KEEP_BLOCKS.items():
                if variable not in os.environ:
                    ctypes.CDLL(None).mallopt(*option)
            os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own ones keep what records have freed
    if args is None and "" not in sys.path:
        sys.path.insert(0, "")  # `python -m` finds modules of the current folder, and so does `gradood`
    if args is None and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # else torch's threads keep cores busy while they wait
    try:
        with stopping() if args is None else nullcontext():
            _run(sys.argv[1:] if args is None else list(args))
    except Ended as ended:
        tqdm = sys.modules.get("tqdm")
        bar = "\n" if tqdm is not None and tqdm.tqdm._instances else ""  # a bar stands in the last line
        sys.stderr.write(f"{bar}error: {ended.sentence}\n")
        raise


def _run(words: list[str]) -> None:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words in (["--help"], ["-h"], ["--version"]):
        sys.stdout.write(f"lightning_gradood {__version__}\n" if words == ["--version"] else OVERVIEW)
        sys.exit(0)
    try:
        if words and words[0] in VERBS and words[0] not in ALONE:
            words = _checked(words)
        if words and words[0] not in VERBS and not words[0].startswith("--trust"):
            from lightning_gradood.cli.plain import unknown_verb

            raise Ended(unknown_verb(words[0]))
        if words and words[0] in ALONE:
            if code := getattr(import_module(f"lightning_gradood.cli.{words[0]}"), words[0])(words[1:]):
                sys.exit(code)
            return
        from lightning_gradood.cli.program import run_program

        run_program(words)
    except BrokenPipeError:  # whoever read standard output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_SIGPIPE)
    except ValueError as error:
        from lightning_gradood.core import Refusal

        if isinstance(error, Refusal):
            raise Ended(str(error)) from error
        raise


def _checked(words: list[str]) -> list[str]:
    """Look at the words of a verb with an experiment: short help, or a flag that no such verb has, ends the program."""
    from lightning_gradood.cli.screens import screen, wrong_flag

    asked = next((place for place, word in enumerate(words) if word in ("--help", "-h")), len(words))
    if words[asked + 1 :] == ["all"]:
        return words[:-1]
    if asked < len(words):
        sys.stdout.write(screen(words[0]))
        sys.exit(0)
    if sentence := wrong_flag(words[0], words[1:]):
        raise Ended(sentence)
    return words
