"""Python programs in processes of their own, without the ten seconds in which a new one imports torch and Lightning.

Each is a fork of multiprocessing's server, which has imported the package and computed nothing: what runs has its own number,
signals, exit code, folder and environment, as what `subprocess` starts. What is about importing, flags of the interpreter,
hashes of strings, several threads or a launcher's processes is started by `subprocess`.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["lightning_gradood.cli.program", "sklearn.neighbors"]
)  # W&B is not: its folder is a program's


class Program:
    """A program that runs, with those members of `subprocess.Popen` that tests need.

    Args:
        command: `sys.executable`, then `-m` and a module, or `-c` and a text, or a script, then words for it.
        folder: where it runs; the working directory by default.
        environment: all its variables; those of this process by default.
    """

    def __init__(self, command, folder=".", environment=None):
        assert command[0] == sys.executable
        assert not command[1].startswith("-") or command[1] in ("-m", "-c"), f"no flags: {command[:2]}"
        pipes = [SERVER.Pipe(duplex=False) for _ in range(2)]
        variables, writers = dict(os.environ if environment is None else environment), [writer for _, writer in pipes]
        self._process = SERVER.Process(target=_become, args=(command[1:], os.path.abspath(folder), variables, writers))
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(reader.fileno())) for reader, _ in pipes)
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def communicate(self, timeout=threading.TIMEOUT_MAX):
        """Wait for its end, killing it after `timeout` seconds; what it wrote to standard output and to standard error."""
        end = threading.Timer(timeout, self.kill)
        end.daemon = True
        end.start()
        with ThreadPoolExecutor(2) as both, self.stdout, self.stderr:
            written = tuple(both.map(lambda stream: stream.read(), (self.stdout, self.stderr)))
        self._process.join()
        end.cancel()
        return written

    def send_signal(self, number):
        """Send it a signal, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_program(command, folder=".", environment=None, timeout=threading.TIMEOUT_MAX):
    """Run a program to its end, see `Program`; its exit code, standard output and standard error."""
    program = Program(command, folder, environment)
    out, error = program.communicate(timeout)
    return CompletedProcess(list(command), program.returncode, out, error)


def _become(command, folder, environment, pipes):
    """Do what a fresh interpreter does with its arguments and variables."""
    for number, pipe in enumerate(pipes, 1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, tests among them, ignore it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    kind = command.pop(0) if command[0] in ("-m", "-c") else "script"
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)]
    sys.path[:1] = [str(Path(command[0]).resolve().parent) if kind == "script" else folder, *paths]
    sys.argv = ["-c", *command[1:]] if kind == "-c" else command
    try:
        if kind == "script":
            runpy.run_path(command[0], run_name="__main__")
        elif kind == "-m":
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        else:
            exec(compile(command[0], "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
