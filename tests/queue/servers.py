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
    from collections.abc import Sequence
    from pathlib import Path

_FILLER = 32 << 20


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

    def start(self, *more: str) -> Self:
        """Start it, with ``more`` options for this time."""
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
                    *more,
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


class SentinelGroup:
    """A master, two replicas and sentinels. The nodes stay; which of them is the master changes.

    Args:
        directory: of their data.
        program: the server's.
        sentinels: how many; most of them must agree before a replica becomes the master.
        down_after_ms: silence after which they look for another master.
        options: of the nodes.
    """

    SERVICE = "queue"

    def __init__(
        self, directory: Path, program: str, *options: str, sentinels: int = 1, down_after_ms: int = 2500
    ) -> None:
        self.directory = directory
        self.program = program
        self.ports = [free_port() for _ in range(3)]
        self.sentinel_ports = [free_port() for _ in range(sentinels)]
        self._down_after_ms = down_after_ms
        self._sentinels: list[subprocess.Popen[bytes]] = []
        own = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", *options)
        self.nodes = [
            RedisServer(directory / str(port), "--port", str(port), *own, program=program) for port in self.ports
        ]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{hosts}/{self.SERVICE}"

    def __enter__(self) -> Self:
        self.start_nodes(self.nodes[0])
        for node in self.nodes[1:]:
            eventually_says(node, "INFO replication", "master_link_status:up")
        self.start_sentinels()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_sentinels()
        for node in self.nodes:
            node.kill()

    def start_nodes(self, master: RedisServer) -> None:
        """Start those that do not run, as replicas of the master where they are others."""
        for node in sorted(self.nodes, key=lambda node: node is not master):
            if not node.is_running:
                node.start(*(("--replicaof", f"127.0.0.1 {self._port(master)}") if node is not master else ()))

    def start_sentinels(self) -> None:
        """Start them with what they knew, and wait until they know all nodes."""
        for port in self.sentinel_ports:
            config = self.directory / f"sentinel-{port}.conf"
            if not config.exists():
                config.write_text(
                    f"port {port}\nbind 127.0.0.1\ndir {self.directory}\n"
                    f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.ports[0]} {len(self.sentinel_ports) // 2 + 1}\n"
                    f"sentinel down-after-milliseconds {self.SERVICE} {self._down_after_ms}\n"
                    f"sentinel failover-timeout {self.SERVICE} 10000\n"
                )
            self._sentinels.append(
                subprocess.Popen([self.program, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
            )
        deadline = time.monotonic() + 60
        others = len(self.sentinel_ports) - 1
        for port in self.sentinel_ports:
            while not {b"num-slaves": 2, b"num-other-sentinels": others}.items() <= self._known_by(port).items():
                assert time.monotonic() < deadline, f"sentinel {port} does not know the nodes"
                time.sleep(0.05)

    def kill_sentinels(self) -> None:
        """Kill them; what they know stays in their files."""
        while self._sentinels:
            sentinel = self._sentinels.pop()
            sentinel.kill()
            sentinel.wait()

    def master(self) -> RedisServer:
        """Return the master that the first sentinel names.

        Raises:
            OSError: it does not answer.
        """
        words = self._ask_sentinel(self.sentinel_ports[0], f"SENTINEL GET-MASTER-ADDR-BY-NAME {self.SERVICE}")
        try:
            return self.nodes[self.ports.index(int(words[4]))]
        except (IndexError, ValueError):
            raise ConnectionError(f"the sentinel answers {words!r}") from None

    def kill_master(self, stalled: float) -> RedisServer:
        """Kill the master while its replicas stand still, and have them go on; return it.

        Args:
            stalled: seconds before its end for which they do; what it is sent then dies with it.
        """
        master = self.master()
        others = [node for node in self.nodes if node is not master]
        for node in others:
            node.send_signal(signal.SIGSTOP)
        # More than the buffers of a connection hold: what follows in the stream stays at the master.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(master.socket))
            connection.sendall(b"*3\r\n$3\r\nSET\r\n$6\r\nfiller\r\n$%d\r\n%s\r\n" % (_FILLER, b"x" * _FILLER))
            connection.recv(16)
        time.sleep(stalled)
        master.kill()
        for node in others:
            node.send_signal(signal.SIGCONT)
        return master

    def replicates(self, nodes: Sequence[RedisServer] | None = None) -> bool:
        """Tell whether these nodes, or all, are the master and replicas that have what it has."""
        try:
            master = self.master()
            said = {node: ask(node, "INFO replication") for node in nodes or self.nodes}
        except OSError:
            return False  # the sentinel closes the connections of a node that it makes a replica
        return "role:master" in said.pop(master, "") and all(
            f"master_port:{self._port(master)}\r" in answer and "master_link_status:up" in answer
            for answer in said.values()
        )

    def _port(self, node: RedisServer) -> int:
        return self.ports[self.nodes.index(node)]

    def _known_by(self, port: int) -> dict[bytes, int]:
        try:
            words = self._ask_sentinel(port, f"SENTINEL MASTER {self.SERVICE}")
        except OSError:
            return {}
        return {name: int(value) for name, value in zip(words[2::4], words[4::4], strict=False) if value.isdigit()}

    def _ask_sentinel(self, port: int, command: str) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65536).split(b"\r\n")


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
