"""Python programs in processes of their own, without the ten seconds in which a new one imports torch and Lightning.

A server that has imported the package, and has computed nothing, forks itself for each program: what runs has its own number,
signals, exit code, folder and environment, as what `subprocess` starts. What is about importing, flags of the interpreter,
hashes of strings, several threads or a launcher's processes is started by `subprocess`.
"""

import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess


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
        request = {"command": command[1:], "folder": os.path.abspath(folder)}
        request["environment"] = dict(os.environ if environment is None else environment)
        with tempfile.TemporaryDirectory() as pipes:
            paths = [os.path.join(pipes, name) for name in ("stdout", "stderr", "state")]
            for path in paths:
                os.mkfifo(path)
            print(json.dumps(request | {"pipes": pipes}), file=_server().stdin, flush=True)
            self.stdout, self.stderr, self._state = (os.fdopen(os.open(path, os.O_RDONLY)) for path in paths)
        self.pid, self.returncode = int(self._state.readline()), None

    def poll(self):
        """Its exit code; None while it runs."""
        return (
            self.wait() if self.returncode is None and select.select([self._state], [], [], 0)[0] else self.returncode
        )

    def wait(self):
        """Wait for its end, and return its exit code."""
        if self.returncode is None:
            self.returncode = int(self._state.readline())
            self._state.close()
        return self.returncode

    def communicate(self, timeout=threading.TIMEOUT_MAX):
        """Wait for its end, killing it after `timeout` seconds; what it wrote to standard output and to standard error."""
        end = threading.Timer(timeout, self.kill)
        end.daemon = True
        end.start()
        with ThreadPoolExecutor(2) as both, self.stdout, self.stderr:
            written = tuple(both.map(lambda stream: stream.read(), (self.stdout, self.stderr)))
        self.wait()
        end.cancel()
        return written

    def send_signal(self, number):
        """Send it a signal, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self):
        """Kill it, if it runs."""
        self.send_signal(signal.SIGKILL)


def run_program(command, folder=".", environment=None, timeout=threading.TIMEOUT_MAX):
    """Run a program to its end, see `Program`; its exit code, standard output and standard error."""
    program = Program(command, folder, environment)
    out, error = program.communicate(timeout)
    return CompletedProcess(list(command), program.wait(), out, error)


@functools.cache
def _server():
    """A process that forks for each line on its standard input, and ends with it, that is with this process."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def _serve():
    """Returns in the fork that is to become a program, with what was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks that wait for programs are waited for by none
    for line in sys.stdin:
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(line)
        if (program := os.fork()) == 0:
            return request
        with contextlib.suppress(BrokenPipeError), open(f"{request['pipes']}/state", "w") as state:
            print(program, file=state, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]), file=state, flush=True)
        os._exit(0)
    sys.exit()


def _become(command, folder, environment, pipes):
    """Do what a fresh interpreter does with its arguments and variables."""
    for number, path in enumerate((os.devnull, f"{pipes}/stdout", f"{pipes}/stderr")):
        opened = os.open(path, os.O_WRONLY if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0)  # the old one holds lines that are not for this program
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    kind = command.pop(0) if command[0] in ("-m", "-c") else "script"
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)]
    sys.path[:1] = [str(Path(command[0]).resolve().parent) if kind == "script" else folder, *paths]
    sys.argv = ["-c", *command[1:]] if kind == "-c" else command
    if kind == "script":
        runpy.run_path(command[0], run_name="__main__")
    elif kind == "-m":
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    else:
        exec(compile(command[0], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    for name in ("lightning_gradood.cli.program", "sklearn.neighbors"):  # what most programs would import
        importlib.import_module(name)  # W&B is not: its folder for files would be that of all programs
    _become(**_serve())
