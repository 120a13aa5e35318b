"""A worker in a process of its own: ``python -m benchmarks.queue_worker URL``; prints each event's way in seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import uvloop

from replicator.logs import configure_logs
from replicator.queue import Lane, Queue, Worker

if TYPE_CHECKING:
    from replicator.queue import JsonValue, Running


async def handle(running: Running) -> dict[str, JsonValue]:
    """Do nothing but say how long ago the event came: the monotonic clock is one for all processes of a machine."""
    print(time.monotonic() - running.payload["began"], flush=True)
    return {}


async def main() -> None:
    """Work until the process is ended."""
    configure_logs("warning")
    async with await Queue.connect(sys.argv[1]) as queue:
        await Worker(queue, handle, concurrency={Lane.EVENTS: 8}).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
