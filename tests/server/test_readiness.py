"""Whether a process is ready: Redis is asked about it once a second at most."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from replicator.queue import QueueUnavailable
from replicator.server import app
from replicator.server.app import Readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from replicator.queue import Queue


class Pings:
    """A queue that only counts how often it is asked, and has a trouble at will."""

    def __init__(self) -> None:
        self.number = 0
        self.trouble = ""
        self.fault: Callable[[], str] = str

    async def ping(self) -> None:
        self.number += 1
        await asyncio.sleep(0)
        if self.trouble:
            raise QueueUnavailable(self.trouble) from ConnectionRefusedError()


async def test_redis_is_asked_once_whoever_asks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_READY_SECONDS", 600.0)
    pings, more = Pings(), ["this process is stopping"]
    readiness = Readiness(cast("Queue", pings), lambda: more)
    found = await asyncio.gather(*(readiness.problems() for _ in range(100)))
    assert found == [more] * 100
    assert (await readiness.problems(), pings.number) == (more, 1)
    monkeypatch.setattr(app, "_READY_SECONDS", 0.0)
    pings.trouble = "redis://192.0.2.1:6379 can't accept or hand out work: it has gone"
    (problem,) = set(await readiness.problems()) - set(more)
    assert pings.number == 2
    # Anyone may read it, so it has no address.
    assert problem == "the queue can't accept or hand out work (ConnectionRefusedError); see the log"
    pings.fault = lambda: "STATE_DIR is full: 0 bytes free; free some space in /state"
    (problem,) = set(await readiness.problems()) - set(more)
    assert problem == "STATE_DIR is full: 0 bytes free; see the log"
    pings.trouble = ""
    assert await readiness.problems() == more
