"""A program of one thread run in a copy of this process, which has imported what takes a new one ten seconds."""

import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import torch


def run_forked(module: str, words: Sequence[str], folder: Path) -> CompletedProcess[str]:
    """Run `python -m MODULE WORDS` in a folder, in a fork of this process.

    Args:
        module: what is run as `__main__`.
        words: of its command line.
        folder: where it runs; `stdout` and `stderr` are written there.

    Returns:
        Exit code, standard output and standard error.
    """
    if (process := os.fork()) == 0:
        _become(module, words, folder)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return CompletedProcess(words, code, (folder / "stdout").read_text(), (folder / "stderr").read_text())


def _become(module: str, words: Sequence[str], folder: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = Path(name).open("w")  # noqa: SIM115
            os.dup2(file.fileno(), number)
            setattr(sys, name, file)
        warnings.resetwarnings()  # those of pytest
        torch.set_num_threads(1)  # a fork that uses several, after its parent did, waits for threads that it has not
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
