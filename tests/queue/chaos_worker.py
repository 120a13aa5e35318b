"""A worker of a chaos run: ``python -m tests.queue.chaos_worker URL LEDGER LEASE``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import Lane, Queue, RetryPolicy, Running, Worker
from tests.queue.ledger import Ledger


class Flaky(ReplicatorError):
    error_class = ErrorClass.TRANSIENT


async def main() -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    url, lease = sys.argv[1], float(sys.argv[3])
    ledger = Ledger(Path(sys.argv[2]))

    async def handle(running: Running) -> dict[str, Any]:
        token = uuid4().hex
        version = ledger.begin(running.id, token)
        try:
            await asyncio.sleep(random.choice([0, 0.001, 0.01, 0.05]))
            running.progress(version)
            if random.random() < 0.03:
                raise Flaky("a fault of the moment")
            await asyncio.sleep(random.choice([0, 0.005, 0.02]))
            await running.confirm()
            ledger.write(running.id, version, running.payload["n"])
            running.answered()
        finally:
            ledger.end(running.id, token)
        return {"version": version}

    async with await Queue.connect(url) as queue:
        worker = Worker(
            queue,
            handle,
            concurrency={Lane.EVENTS: 6, Lane.BACKFILL: 3},
            policy=RetryPolicy(first=0.05, cap=0.5, horizon=600),
            lease=lease,
            drain=0.1,
            timeout=30,
            compare_again=0.2,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
