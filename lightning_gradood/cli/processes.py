"""The processes of a run end together, whatever ends one of them and whoever started them.

Each is connected to the first one. A process that is stopped, refuses or fails says so at once; one that is killed says nothing,
and its connection closes. The first process tells the others, so that nobody probes for hours towards a barrier at which one is
missing. It does not depend on the launcher: SLURM lets the others go on, and Lightning kills them before they have written.
"""

import os
import secrets
import selectors
import signal
import socket
import subprocess
import threading
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_gradood.cli.stopping import on_stop, stop

_SECONDS = 10.0  # to connect
_ENDED = 5.0  # for a child that is gone to be reaped
_TOKEN = 16  # bytes that show that a connection comes from this run


class EndTogether(Callback):
    """Connect the processes of a run when the first loop begins, and take Lightning's handlers of signals out of the way."""

    connected = False
    """Whether this process is connected; the connection outlives a Trainer."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called by Lightning when all processes are there."""
        trainer._signal_connector.register_signal_handlers = _leave  # type: ignore[method-assign]
        if trainer.world_size == 1 or EndTogether.connected:
            return
        EndTogether.connected = True
        server = socket.create_server(("", 0)) if trainer.is_global_zero else None
        place = (server.getsockname()[1] if server else 0, secrets.token_bytes(_TOKEN))
        port, token = trainer.strategy.broadcast(place)
        if server is not None:
            _First(server, token, _children(trainer)).start()
        else:
            _connect(port, token, trainer.global_rank)


def _leave() -> None:
    """Register none of Lightning's handlers: one of them waits for all processes, the other saves in the middle of a step."""


def _children(trainer: pl.Trainer) -> list[subprocess.Popen[Any]]:
    """The processes that Lightning started, taken from its observer, which would kill this one as soon as one has ended."""
    started = getattr(trainer.strategy.launcher, "procs", None)
    if not isinstance(started, list) or not all(isinstance(one, subprocess.Popen) for one in started):
        return []
    children = list(started)
    started.clear()
    return children


def _connect(port: int, token: bytes, rank: int) -> None:
    """Connect to the first process, and stop when it says so or is gone."""
    try:
        first = socket.create_connection((os.environ.get("MASTER_ADDR", "127.0.0.1"), port), _SECONDS)
        first.settimeout(None)
        first.sendall(token + rank.to_bytes(4))
    except OSError as error:
        rank_zero_warn(f"Process {rank} cannot watch the first one ({error}): it may outlive it.")
        return
    on_stop(lambda code: _say(first, code))
    threading.Thread(target=_listen, args=(first,), name="first process", daemon=True).start()


def _listen(first: socket.socket) -> None:
    try:
        said = first.recv(1)
    except OSError:
        said = b""
    if said != b"\0":
        code = said[0] if said else 1
        stop(
            "stopped by the first process" if said else "left alone: the first process was killed or has crashed", code
        )


def _say(connection: socket.socket, code: int) -> None:
    try:
        connection.send(bytes([code % 256]), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    except OSError:  # it has ended before
        return


class _First(threading.Thread):
    """The first process' side: it hears how each of the others ends, and tells the rest."""

    def __init__(self, server: socket.socket, token: bytes, children: list[subprocess.Popen[Any]]) -> None:
        super().__init__(name="other processes", daemon=True)
        self.server, self.token, self.children = server, token, children
        self.rank_of: dict[socket.socket, int] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(server, selectors.EVENT_READ)
        on_stop(self.tell)

    def tell(self, code: int) -> None:
        """Tell every other process."""
        for connection in list(self.rank_of):
            _say(connection, code)

    def run(self) -> None:
        """Wait for connections and for what they say."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.server:
                    self._accept()
                else:
                    self._hear(key.fileobj)  # type: ignore[arg-type]  # sockets are what was registered

    def _accept(self) -> None:
        connection, _ = self.server.accept()
        connection.settimeout(_SECONDS)
        try:
            said = connection.recv(_TOKEN + 4, socket.MSG_WAITALL)
        except OSError:
            said = b""
        if not secrets.compare_digest(said[:_TOKEN], self.token):
            connection.close()
            return
        self.rank_of[connection] = int.from_bytes(said[_TOKEN:])
        self.selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> None:
        try:
            said = connection.recv(1)
        except OSError:
            said = b""
        rank = self.rank_of.pop(connection)
        self.selector.unregister(connection)
        if said == b"\0":
            return
        why, code = (_how(rank, said[0]), said[0]) if said else (self._without_a_word(rank), 1)
        self.tell(code)
        stop(why, code)

    def _without_a_word(self, rank: int) -> str:
        """Name the signal or exit code of a process that said nothing, where it is this one's child."""
        if rank > len(self.children):
            return f"left alone: process {rank} was killed or has crashed"
        try:
            code = self.children[rank - 1].wait(_ENDED)
        except subprocess.TimeoutExpired:
            return f"left alone: process {rank} has closed its connection"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"
        return f"left alone: process {rank} {how}"


def _how(rank: int, code: int) -> str:
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    names = {128 + number: signal.Signals(number).name for number in signals}
    if code in names:
        return f"stopped by {names[code]}, which process {rank} got"
    return f"left alone: process {rank} has ended with exit code {code}, and what it wrote says why"
