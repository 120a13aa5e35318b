"""Real servers for the tests: a valkey-server that can be killed and restarted, and a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

from replicator.queue.embedded import server_program

if TYPE_CHECKING:
    from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server in ``directory``, durable like the embedded one, reached by a Unix socket unless options say else."""

    def __init__(self, directory: Path, *options: str, program: str | None = None) -> None:
        self.directory = directory
        self.options = options
        self.program = program or server_program()
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def send_signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP and SIGCONT."""
        os.kill(self.pid, number)

    def start(self) -> Self:
        self.directory.mkdir(exist_ok=True, parents=True)
        self.socket.unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self.program,
                    "--port",
                    "0",
                    "--unixsocket",
                    str(self.socket),
                    "--dir",
                    str(self.directory),
                    "--save",
                    "",
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "always",
                    *self.options,
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.005)
        return self

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            return not probe.recv(64).startswith(b"-LOADING")
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class Replicated:
    """A master and its replicas, each of which can be stalled, killed or made the master.

    Args:
        directory: of their data.
        through: the port by which the replicas reach the master, if it is not its own.
        replicas: how many.
    """

    def __init__(self, directory: Path, *, through: int | None = None, replicas: int = 1) -> None:
        self.port = free_port()
        # A replica is synchronized at once, and not after five seconds.
        options = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
        self.master = RedisServer(directory / "m", "--port", str(self.port), *options)
        follow = ("--replicaof", f"127.0.0.1 {through or self.port}")
        self.ports = [free_port() for _ in range(replicas)]
        self.replicas = [
            RedisServer(directory / f"r{i}", "--port", str(port), *options, *follow)
            for i, port in enumerate(self.ports)
        ]

    def __enter__(self) -> Self:
        self.master.start()
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            eventually_says(replica, "INFO replication", "master_link_status:up")
        eventually_says(self.master, "INFO replication", f"slave{len(self.replicas) - 1}:")
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.master, *self.replicas):
            server.kill()

    def promote(self, replica: int = 0) -> None:
        """Make a replica the master, and the former master its replica if it runs."""
        ask(self.replicas[replica], "REPLICAOF NO ONE")
        if self.master.is_running:
            ask(self.master, f"REPLICAOF 127.0.0.1 {self.ports[replica]}")


def ask(server: RedisServer, command: str) -> str:
    """Return what a server answers to a command in a line."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(server.socket))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(65536).decode()


def eventually_says(server: RedisServer, command: str, words: str, timeout: float = 20) -> None:
    """Wait until the answer of a server has these words in it."""
    deadline = time.monotonic() + timeout
    while words not in ask(server, command):
        assert time.monotonic() < deadline, f"{words} is not in the answer to {command}"
        time.sleep(0.02)


class CuttingProxy:
    """An address in front of a server's Unix socket, whose connections can be cut, refused or held up at will.

    Args:
        path: a Unix socket, or a port.
        target: the server; another one counts for new connections.
    """

    def __init__(self, path: Path | int, target: Path) -> None:
        self.path = path
        self.target = target
        self.cuts = 0
        self.refusing = False
        self.mute_answers = False
        self.muted: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.path}" if isinstance(self.path, int) else f"unix://{self.path}"

    async def __aenter__(self) -> Self:
        if isinstance(self.path, int):
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.path)
        else:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut(len(self._connections))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def cut(self, number: int = 1_000_000) -> None:
        """Reset some connections."""
        chosen = random.sample(sorted(self._connections, key=id), min(number, len(self._connections)))
        for writer in chosen:
            writer.transport.abort()
        self.cuts += len(chosen)

    def mute(self) -> None:
        """Let the present connections stay open, but carry no more answers."""
        self.muted |= self._connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refusing:
                return
            up_reader, up_writer = await asyncio.open_unix_connection(self.target)
            self._connections |= {writer}
            try:
                await asyncio.gather(
                    self._pump(reader, up_writer, answers=False), self._pump(up_reader, writer, answers=True)
                )
            finally:
                up_writer.close()
        except OSError:
            pass
        finally:
            self._connections.discard(writer)
            writer.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers and (self.mute_answers or writer in self.muted):
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()
