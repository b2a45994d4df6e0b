"""Python programs in processes of their own, without the ten seconds in which a new one imports torch and Lightning.

A server that has imported the package, and has computed nothing, forks itself for each program: what runs has its own number,
signals, exit code, folder and environment, as what `subprocess` starts. What is about importing, flags of the interpreter,
hashes of strings, several threads or a launcher's processes is started by `subprocess`.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

_DESCRIPTORS = 4  # standard input, output, error, and the connection


class Program:
    """A program that runs, with those members of `subprocess.Popen` that tests need.

    Args:
        command: `sys.executable`, then `-m` and a module, or `-c` and a text, or a script, then words for it.
        folder: where it runs; the working directory by default.
        environment: all its variables; those of this process by default.
    """

    def __init__(
        self, command: Sequence[str], folder: Path | str = ".", environment: Mapping[str, str] | None = None
    ) -> None:
        if command[0] != sys.executable or (command[1].startswith("-") and command[1] not in ("-m", "-c")):
            raise ValueError(f"`sys.executable` is expected, then -m, -c or a script. Got {command[:2]}.")
        ours, theirs = socket.socketpair()
        pipes = [os.pipe(), os.pipe()]
        with open(os.devnull) as nothing, theirs:
            given = [nothing.fileno(), *(write for _, write in pipes), theirs.fileno()]
            socket.send_fds(_server(), [b"x"], given)
        for _, write in pipes:
            os.close(write)
        self.stdout, self.stderr = (os.fdopen(read) for read, _ in pipes)
        request = {"command": list(command[1:]), "folder": os.path.abspath(folder)}
        request["environment"] = dict(os.environ if environment is None else environment)
        ours.sendall(json.dumps(request).encode())
        ours.shutdown(socket.SHUT_WR)
        self._answers = ours.makefile()
        ours.close()  # what reads answers keeps it open
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None
        self._written: tuple[str, ...] = ()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        if self.returncode is None:
            self.returncode = int(self._answers.readline())
            self._answers.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, ...]:
        """Wait for its end.

        Args:
            timeout: seconds after which it is killed.

        Returns:
            What it wrote to standard output and to standard error.
        """
        end = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        end.daemon = True
        end.start()
        if not self._written:
            with ThreadPoolExecutor(2) as both, self.stdout, self.stderr:
                self._written = tuple(both.map(lambda stream: stream.read(), (self.stdout, self.stderr)))
        self.wait()
        end.cancel()
        return self._written

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self.send_signal(signal.SIGKILL)


def run_program(
    command: Sequence[str],
    folder: Path | str = ".",
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> CompletedProcess[str]:
    """Run a program to its end.

    Args:
        command: see `Program`.
        folder: where it runs.
        environment: all its variables.
        timeout: seconds after which it is killed.

    Returns:
        Exit code, standard output and standard error.
    """
    program = Program(command, folder, environment)
    out, error = program.communicate(timeout)
    return CompletedProcess(list(command), program.wait(), out, error)


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        variables = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(theirs.fileno())]
        server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=variables)
    atexit.register(server.wait)
    atexit.register(ours.close)  # first, which ends the server
    return ours


def _serve(requests: socket.socket) -> tuple[dict, list[int]] | None:
    """Fork for each request until there are no more.

    Returns:
        In the fork that is to become a program, what it is and its standard streams; None in the server at its end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that wait for programs
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 1, _DESCRIPTORS)
        if not message:
            return None
        if os.fork() == 0:
            break
        for one in descriptors:
            os.close(one)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, connection = descriptors
    with socket.socket(fileno=connection) as answers:
        with answers.makefile() as words:
            request = json.load(words)
        if (program := os.fork()) == 0:
            return request, streams
        for one in streams:
            os.close(one)
        with contextlib.suppress(BrokenPipeError):  # the test has ended
            answers.sendall(f"{program}\n".encode())
            answers.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])}\n".encode())
        os._exit(0)


def _become(request: dict, streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    command = request["command"]
    given = "" if command[0] in ("-m", "-c") else command.pop(0)
    place = str(Path(given).resolve().parent) if given else request["folder"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [place, *(path for path in paths if path not in sys.path)]
    if given:
        sys.argv = [given, *command]
        runpy.run_path(given, run_name="__main__")
    elif command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    for name in ("lightning_gradood.cli.program", "sklearn.neighbors"):  # what most programs would import
        importlib.import_module(name)  # W&B is not: its folder for files would be that of all programs
    if (asked := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(*asked)
