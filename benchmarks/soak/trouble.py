"""The faults of a soak, repeated: registries, Redis, workers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

from tests.standins.faults import Answer, Cut, CutUpload, Fault, FaultLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.queue.servers import RedisServer
    from tests.running import Serving

_FAULT_SECONDS = 2.0
REDIS_SECONDS = 40.0
"""Between two ends of Redis."""
KILL_SECONDS = 25.0
"""Between two ends of the worker."""
_REDIS_AWAY = 2.0


def _at_destination() -> Fault:
    choices: tuple[Callable[[], Fault], ...] = (
        lambda: Fault(Answer(429, "TOOMANYREQUESTS", headers={"Retry-After": "1"}), times=3),
        lambda: Fault(Answer(503), times=20),
        lambda: Fault(Answer(500), method="PUT", times=5),
        lambda: Fault(Cut(None, "reset"), times=10),
        lambda: Fault(CutUpload(200), method="PUT", path="/blobs/uploads/", times=5),
        lambda: Fault(Answer(404, "BLOB_UPLOAD_UNKNOWN"), method="PUT", path="/blobs/uploads/", times=3),
    )
    return random.choice(choices)()


def _at_source() -> Fault:
    choices: tuple[Callable[[], Fault], ...] = (
        lambda: Fault(Answer(502), times=10),
        lambda: Fault(Answer(429, headers={"Retry-After": "1"}), times=2),
        lambda: Fault(Cut(100, "reset"), method="GET", path="/blobs/", times=5),
        lambda: Fault(Cut(0), method="GET", path="/manifests/", times=5),
    )
    return random.choice(choices)()


async def spoil(source: FaultLayer, destination: FaultLayer, counts: dict[str, int]) -> None:
    """Have registries fail in another way every two seconds; ends only when it is cancelled."""
    while True:
        for layer, fault in ((source, _at_source()), (destination, _at_destination())):
            counts["requests"] += len(layer.log)
            counts["faults"] += sum(fault.hits for fault in layer.faults)
            layer.log.clear()
            # What has not struck by now is over too.
            layer.faults = [fault]
        await asyncio.sleep(_FAULT_SECONDS)


async def restart(redis: RedisServer, counts: dict[str, int]) -> None:
    """Kill Redis now and then, and start it again after two seconds; ends only when it is cancelled."""
    while True:
        await asyncio.sleep(REDIS_SECONDS)
        await asyncio.to_thread(redis.kill)
        try:
            await asyncio.sleep(_REDIS_AWAY)
        finally:
            redis.start()
        counts["Redis killed"] += 1


async def kill(worker: Serving, counts: dict[str, int]) -> None:
    """Kill a worker after a while, as the kernel does when memory runs out."""
    await asyncio.sleep(KILL_SECONDS)
    # One that could not start as Redis was away has ended by itself, and is started again like any other.
    with contextlib.suppress(ProcessLookupError):
        worker.process.kill()
    await worker.process.wait()
    counts["workers killed"] += 1
