"""Real servers for the tests: a valkey-server that can be killed and restarted, and a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
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
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class CuttingProxy:
    """A Unix socket in front of another, whose connections can be cut, refused or held up at will."""

    def __init__(self, path: Path, target: Path) -> None:
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
        return f"unix://{self.path}"

    async def __aenter__(self) -> Self:
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
