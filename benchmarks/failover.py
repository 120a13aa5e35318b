"""Events through failovers of Redis: what is lost of what was accepted, and what it costs to wait for a replica.

A master, two replicas and a sentinel. Every few seconds both replicas stall, the master dies meanwhile, and the
sentinel has a replica take its place; the dead one comes back as a replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
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
    from collections.abc import AsyncIterator, Iterator

_SENDERS = 16
_STALL_SECONDS = 1.5
"""Long enough that more is on its way to a stalled replica than the buffers of its connection hold."""
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

    def master(self) -> RedisServer | None:
        for node in self.nodes:
            if node.is_running and "role:master" in ask(node, "INFO replication"):
                return node
        return None

    async def fail_over(self) -> None:
        """Kill the master while its replicas stall, and wait until another one has a replica."""
        master = self.master()
        if master is None:
            raise RunFailed("there is no master")
        replicas = [node for node in self.nodes if node is not master]
        for node in replicas:
            node.send_signal(signal.SIGSTOP)
        await asyncio.sleep(_STALL_SECONDS)
        master.kill()
        for node in replicas:
            node.send_signal(signal.SIGCONT)
        async with asyncio.timeout(120):
            while not any("role:master" in ask(node, "INFO replication") for node in replicas):
                await asyncio.sleep(0.1)
            # It comes back as a master without the others, and the sentinel makes it a replica.
            await asyncio.to_thread(master.start)
            for node in self.nodes:
                while "master_link_status:down" in (said := ask(node, "INFO replication")) or (
                    node is master and "role:master" in said
                ):
                    await asyncio.sleep(0.2)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def measure_failover(events: int) -> Table:
    """Send ``events`` events through failovers, waiting for a replica and not; make a table of it.

    Raises:
        RunFailed: redis-server is not installed, or a failover did not end.
    """
    configure_logs("error", "console")
    program = shutil.which("redis-server")
    if program is None:
        raise RunFailed("redis-server is not installed")
    table = Table("replicas", "events accepted", "refused (503)", "failovers", "lost", "seconds", "p50", "p99")
    # Without waiting a part suffices to see the losses.
    for replicas, number in ((1, events), (0, events // 5)):
        with _group(program) as (group, url):
            run, latencies = asyncio.run(_measure(group, url, replicas, number))
        centiles = statistics.quantiles(latencies, n=100)
        table.add_row(
            *(str(value) for value in (replicas, len(run.accepted), run.refused, run.failovers, run.lost)),
            f"{run.seconds:.0f}",
            f"{statistics.median(latencies) * 1000:.2f} ms",
            f"{centiles[98] * 1000:.2f} ms",
        )
    return table


@contextmanager
def _group(program: str) -> Iterator[tuple[_Group, str]]:
    with tempfile.TemporaryDirectory(prefix="failover-", dir="/tmp") as name:
        group, port = _Group(Path(name), program), free_port()
        try:
            group.start()
            config = Path(name) / "sentinel.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {name}\nsentinel monitor queue 127.0.0.1 {group.ports[0]} 1\n"
                "sentinel down-after-milliseconds queue 2500\nsentinel failover-timeout queue 5000\n"
            )
            with subprocess.Popen([program, str(config), "--sentinel"], stdout=subprocess.DEVNULL) as sentinel:
                try:
                    yield group, f"redis+sentinel://127.0.0.1:{port}/queue"
                finally:
                    sentinel.kill()
        finally:
            group.kill()


async def _measure(group: _Group, url: str, replicas: int, events: int) -> tuple[_Run, list[float]]:
    async with await Queue.connect(url, replicas=replicas) as queue:
        latencies = [await _send(queue, f"r.example/quiet:{number}") for number in range(_SAMPLES)]
        run, began = _Run(), time.monotonic()
        async with _senders(queue, run, events) as sending:
            while not sending.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BETWEEN_SECONDS):
                        await asyncio.shield(sending)
                if not sending.done():
                    await group.fail_over()
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
