"""Everything at once: workers killed and stopped, Redis killed and restarted, connections cut, tags pushed throughout.

``REPLICATOR_CHAOS_SECONDS`` makes it last longer than its 8 seconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Job, Lane, Queue, QueueUnavailable
from tests.queue.conftest import idle
from tests.queue.ledger import Ledger
from tests.queue.servers import CuttingProxy, RedisServer

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = float(os.environ.get("REPLICATOR_CHAOS_SECONDS", "8"))
LEASE = 2.0
WORKERS = 3
HOT = [f"r.example/hot:{n}" for n in range(4)]
COLD = [f"r.example/cold:{n}" for n in range(300)]


class Chaos:
    """The run: what it does, and how often it did it."""

    def __init__(self, directory: Path, server: RedisServer, proxy: CuttingProxy, ledger: Ledger, queue: Queue) -> None:
        self.directory = directory
        self.server = server
        self.proxy = proxy
        self.ledger = ledger
        self.queue = queue
        self.workers: list[subprocess.Popen[bytes]] = []
        self.ended: list[subprocess.Popen[bytes]] = []
        self.counts = {"pushes": 0, "refused": 0, "SIGKILL": 0, "SIGTERM": 0, "server kills": 0, "server stops": 0}
        self.newest: dict[str, int] = {}
        self.wanted: dict[tuple[str, str], int] = {}
        self.pushing_on = True

    def start_worker(self) -> None:
        with (self.directory / "workers.log").open("ab") as log:
            self.workers.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "tests.queue.chaos_worker",
                        self.proxy.url,
                        str(self.directory / "ledger"),
                        str(LEASE),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )

    async def pushing(self, half: int) -> None:
        """Push tags of one half; repeat what was not taken, as Harbor repeats an event."""
        hot, cold, run = HOT[half::2], COLD[half::2], f"run-{half}"
        while self.pushing_on:
            ids = random.sample(hot, 1) if random.random() < 0.5 else random.sample(cold, random.choice([1, 1, 5, 40]))
            lane = random.choice([Lane.EVENTS, Lane.EVENTS, Lane.BACKFILL])
            for job in ids:
                self.newest[job] = self.ledger.push(job)
                if lane is Lane.BACKFILL:
                    self.wanted[run, job] = self.newest[job]
            self.counts["pushes"] += len(ids)
            await self.enqueue([Job(job, {"n": self.newest[job]}) for job in ids], lane, run)
            await asyncio.sleep(random.expovariate(60))

    async def enqueue(self, jobs: list[Job], lane: Lane, run: str) -> None:
        while True:
            try:
                await self.queue.enqueue(jobs, lane, run=run if lane is Lane.BACKFILL else None)
            except QueueUnavailable:
                self.counts["refused"] += 1
                await asyncio.sleep(0.05)
            else:
                return

    async def ending_workers(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.3, 1.2))
            worker = self.workers.pop(0)
            number = random.choice([signal.SIGKILL, signal.SIGTERM])
            self.counts[number.name] += 1
            worker.send_signal(number)
            self.ended.append(worker)
            self.start_worker()
            await asyncio.to_thread(worker.wait)

    async def cutting(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.05, 0.5))
            self.proxy.cut(random.choice([1, 2, 5, 1000]))

    async def ending_server(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(1.5, 4))
            how = random.choice([self.server.kill, self.server.stop])
            self.counts["server kills" if how == self.server.kill else "server stops"] += 1
            await asyncio.to_thread(how)
            await asyncio.sleep(random.choice([0, 0.2, LEASE * 1.2]))
            await asyncio.to_thread(self.server.start)

    async def hearing(self, half: int) -> None:
        """Note the outcomes that a run hears of, if they are of a copy that began after it asked."""
        run = f"run-{half}"
        async for finished in self.queue.finished(run):
            assert finished.outcome is not None, finished
            if finished.outcome["version"] >= self.wanted[run, finished.id]:
                self.wanted[run, finished.id] = 0


@pytest.mark.timeout(SECONDS + 90)
async def test_through_everything_every_tag_ends_with_what_was_pushed_last_and_no_copy_overlapped(
    short_dir: Path, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.create()
    with RedisServer(short_dir / "chaos") as server:
        async with (
            CuttingProxy(short_dir / "chaos.sock", server.socket) as proxy,
            await Queue.connect(proxy.url, deadline=1) as queue,
        ):
            chaos = Chaos(tmp_path, server, proxy, ledger, queue)
            for _ in range(WORKERS):
                chaos.start_worker()
            harm = [asyncio.create_task(act()) for act in (chaos.ending_workers, chaos.cutting, chaos.ending_server)]
            use = [asyncio.create_task(chaos.pushing(half)) for half in range(2)]
            hear = [asyncio.create_task(chaos.hearing(half)) for half in range(2)]
            done, _ = await asyncio.wait([*harm, *use, *hear], timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            for task in [*done, *harm]:
                task.cancel()
            await asyncio.wait(harm)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            chaos.pushing_on = False
            await asyncio.gather(*use)
            await idle(queue, timeout=60)
            counts = await queue.counts()
            await asyncio.sleep(1)
            for task in hear:
                task.cancel()
            await asyncio.wait(hear)
            for worker in chaos.workers:
                worker.terminate()
            for worker in chaos.ended:
                await asyncio.to_thread(worker.wait, 20)
            codes = [await asyncio.to_thread(worker.wait, 20) for worker in chaos.workers]
            verdict = ledger.verdict()
            print({**chaos.counts, "cuts": proxy.cuts, "runs": verdict.runs})
    for task in done:
        task.result()
    assert verdict.faults == []
    assert verdict.stale == []
    assert {job: ledger.last_payload(job) for job in chaos.newest} == chaos.newest
    assert counts.dead == 0
    assert [asked for asked, version in chaos.wanted.items() if version] == []
    assert codes == [0] * WORKERS
    ledger.close()
