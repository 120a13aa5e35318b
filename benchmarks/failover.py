"""Events through failovers of Redis: what is lost of what was accepted, and what it costs to wait for a replica.

A master, two replicas and a sentinel. Every few seconds both replicas stall, the master dies meanwhile, and the
sentinel has a replica take its place; the dead one comes back when that is done, or amid it, when it takes events again
with the replica that does not follow the next master yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.measuring import RunFailed
from replicator.logs import configure_logs
from replicator.queue import Job, Lane, Queue, QueueUnavailable
from tests.queue.servers import RedisServer, ask, eventually_says, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

_SERVICE = "queue"
_SENDERS = 16
_STALL_SECONDS = 1.0
_FILLER = 32 << 20
_BETWEEN_SECONDS = 10.0
_PAYLOAD = {"content": "x" * 1024}
_SAMPLES = 3_000


@dataclass(slots=True)
class _Run:
    """What became of the events of one run."""

    accepted: set[str] = field(default_factory=set)
    refused: int = 0
    failovers: int = 0
    lost: int = 0
    seconds: float = 0.0


class _Group:
    """The servers; the names of the nodes do not change, their parts do."""

    def __init__(self, directory: Path, program: str) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.sentinel = free_port()
        options = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", "--repl-backlog-size", "256mb")
        self.nodes = [
            RedisServer(directory / str(port), "--port", str(port), *options, "--appendfsync", "no", program=program)
            for port in self.ports
        ]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes[1:]:
            ask(node, f"REPLICAOF 127.0.0.1 {self.ports[0]}")
        for node in self.nodes[1:]:
            eventually_says(node, "INFO replication", "master_link_status:up")

    def master(self) -> RedisServer:
        """Return the master that the sentinel names.

        Raises:
            RunFailed: the sentinel does not answer.
        """
        with socket.create_connection(("127.0.0.1", self.sentinel), 5) as connection:
            connection.sendall(f"SENTINEL GET-MASTER-ADDR-BY-NAME {_SERVICE}\r\n".encode())
            words = connection.recv(4096).split(b"\r\n")
        try:
            return self.nodes[self.ports.index(int(words[4]))]
        except (IndexError, ValueError):
            raise RunFailed(f"the sentinel answers {words!r}") from None

    async def fail_over(self, *, early: bool) -> None:
        """Kill the master while its replicas stall, and start it again.

        Args:
            early: whether it comes back as soon as a replica is promoted, when the sentinel has not told yet and the
                other replica still follows the former master; else once the failover is over.
        """
        former = self.master()
        others = [node for node in self.nodes if node is not former]
        for node in others:
            node.send_signal(signal.SIGSTOP)
        # More than the buffers of a connection hold: what follows in the stream dies with the master.
        await asyncio.to_thread(_fill, former)
        await asyncio.sleep(_STALL_SECONDS)
        former.kill()
        for node in others:
            node.send_signal(signal.SIGCONT)
        async with asyncio.timeout(120):
            while early and not any("role:master" in ask(node, "INFO replication") for node in others):
                await asyncio.sleep(0.02)
            while not early and (self.master() is former or not _follows(self.master(), others)):
                await asyncio.sleep(0.1)
            await asyncio.to_thread(former.start)
            while not _follows(self.master(), self.nodes):
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def _fill(server: RedisServer) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.socket))
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$6\r\nfiller\r\n$%d\r\n%s\r\n" % (_FILLER, b"x" * _FILLER))
        connection.recv(16)


def _follows(master: RedisServer, nodes: Sequence[RedisServer]) -> bool:
    """Tell whether all other nodes have what this one has."""
    try:
        said = {node: ask(node, "INFO replication") for node in nodes}
    except OSError:
        return False  # the sentinel closes the connections of a node that it makes a replica
    port = master.options[1]
    return "role:master" in said.pop(master) and all(
        f"master_port:{port}\r" in answer and "master_link_status:up" in answer for answer in said.values()
    )


def measure_failover(events: int) -> Table:
    """Send ``events`` events through failovers, waiting for a replica and not; make a table of it.

    Raises:
        RunFailed: redis-server is not installed, or a failover did not end.
    """
    configure_logs("error", "console")
    program = shutil.which("redis-server")
    if program is None:
        raise RunFailed("redis-server is not installed")
    table = Table(
        "awaited", "master is back", "events accepted", "refused (503)", "failovers", "lost", "seconds", "p50", "p99"
    )
    part = events // 5  # suffices to see losses
    for replicas, early, number in ((1, False, events), (0, False, part), (1, True, part), (2, True, part)):
        with _group(program) as group:
            url = f"redis+sentinel://127.0.0.1:{group.sentinel}/{_SERVICE}"
            run, latencies = asyncio.run(_measure(group, url, replicas, number, early=early))
        centiles = statistics.quantiles(latencies, n=100)
        table.add_row(
            str(replicas),
            "during the failover" if early else "after it",
            *(str(value) for value in (len(run.accepted), run.refused, run.failovers, run.lost)),
            f"{run.seconds:.0f}",
            f"{statistics.median(latencies) * 1000:.2f} ms",
            f"{centiles[98] * 1000:.2f} ms",
        )
    return table


@contextmanager
def _group(program: str) -> Iterator[_Group]:
    with tempfile.TemporaryDirectory(prefix="failover-", dir="/tmp") as name:
        group = _Group(Path(name), program)
        try:
            group.start()
            config = Path(name) / "sentinel.conf"
            config.write_text(
                f"port {group.sentinel}\nbind 127.0.0.1\ndir {name}\n"
                f"sentinel monitor {_SERVICE} 127.0.0.1 {group.ports[0]} 1\n"
                f"sentinel down-after-milliseconds {_SERVICE} 2500\nsentinel failover-timeout {_SERVICE} 10000\n"
            )
            with subprocess.Popen([program, str(config), "--sentinel"], stdout=subprocess.DEVNULL) as sentinel:
                try:
                    yield group
                finally:
                    sentinel.kill()
        finally:
            group.kill()


async def _measure(group: _Group, url: str, replicas: int, events: int, *, early: bool) -> tuple[_Run, list[float]]:
    async with await Queue.connect(url, replicas=replicas) as queue:
        latencies = [await _send(queue, f"r.example/quiet:{number}") for number in range(_SAMPLES)]
        run, began = _Run(), time.monotonic()
        async with _senders(queue, run, events) as sending:
            while not sending.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BETWEEN_SECONDS):
                        await asyncio.shield(sending)
                if not sending.done():
                    await group.fail_over(early=early)
                    run.failovers += 1
        run.seconds = time.monotonic() - began
        known: set[str] = set()
        async for batch in queue.scan_hash("gen"):
            known.update(batch)
        run.lost = len(run.accepted - known)
    return run, latencies


async def _send(queue: Queue, job_id: str) -> float:
    began = time.perf_counter()
    await queue.enqueue([Job(job_id, _PAYLOAD)], Lane.EVENTS)
    return time.perf_counter() - began


@asynccontextmanager
async def _senders(queue: Queue, run: _Run, events: int) -> AsyncIterator[asyncio.Future[list[None]]]:
    async def send(sender: int) -> None:
        number = 0
        while len(run.accepted) < events:
            number += 1
            job_id = f"r.example/{sender}:{number}"
            try:
                await _send(queue, job_id)
                run.accepted.add(job_id)
            except QueueUnavailable:
                run.refused += 1
                await asyncio.sleep(0.05)

    sending = asyncio.gather(*(send(sender) for sender in range(_SENDERS)))
    try:
        yield sending
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
