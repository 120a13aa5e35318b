"""The last event of each project, what sweeps found, and failed attempts: kept by Redis's clock, and bounded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from replicator.errors import ErrorClass
from replicator.queue import Job, Lane, Queue, hearing, list_attempts, list_heard
from replicator.queue.leaders import Sweeps, SweepState
from replicator.queue.records import EPOCH
from replicator.queue.traffic import MOST_HEARD, MOST_LOST
from tests.queue.conftest import Recorder, command, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer


async def test_processes_agree_on_the_last_event_of_each_project(
    queue: Queue, server: RedisServer, prefix: str
) -> None:
    now = int((await queue.redis.time())[0]) * 1000
    await command(queue, "HSET", f"{queue.prefix}:heard", "h.example/old", f"{now - 60_000} 3", "h.example/a", "?")
    async with await Queue.connect(server.url, prefix=prefix) as other, hearing(other) as arrivals:
        arrivals.note("h.example", "a")
        arrivals.note("h.example", "a", 7)
        arrivals.note("h.example", "a")
        arrivals.note("", "b\x1b")
    heard = await list_heard(queue)
    assert [(each.host, each.project, each.number) for each in sorted(heard, key=lambda each: each.project)] == [
        ("h.example", "a", 7),
        ("", "b ", None),
        ("h.example", "old", 3),
    ]
    assert heard[-1].project == "old", "the last one that was heard comes first"
    assert (heard[0].at - heard[-1].at).total_seconds() >= 59


async def test_what_was_heard_later_counts_and_a_project_keeps_its_number(queue: Queue) -> None:
    await queue.ask("heard", "h/a", 0, "7")
    (first,) = await list_heard(queue)
    await queue.ask("heard", "h/a", 50_000, "")
    assert await list_heard(queue) == [first], "another process tells of an earlier event"
    await queue.ask("heard", "h/a", 0, "")
    (again,) = await list_heard(queue)
    assert (again.at >= first.at, again.number) == (True, 7)


async def test_a_time_in_the_future_is_now_and_gives_way(queue: Queue) -> None:
    ahead = int(time.time() * 1000) + 3_600_000
    await command(queue, "HSET", f"{queue.prefix}:heard", "h/a", f"{ahead} ", "h/b", "of another version")
    (heard,) = await list_heard(queue)
    assert heard.at.timestamp() * 1000 < ahead - 1_000_000
    await queue.ask("heard", "h/a", 1000, "")
    assert int((await command(queue, "HGET", f"{queue.prefix}:heard", "h/a")).split()[0]) < ahead


async def test_the_projects_that_were_heard_last_are_kept(queue: Queue) -> None:
    words = [part for number in range(MOST_HEARD) for part in (f"h/{number}", MOST_HEARD - number, "")]
    await queue.ask("heard", *words)
    await queue.ask("heard", "h/new", 0, "", "h/newer", 0, "")
    names = {each.project for each in await list_heard(queue)}
    assert len(names) == MOST_HEARD
    assert {"new", "newer"} < names
    assert names.isdisjoint({"0", "1"})


async def test_an_event_that_redis_does_not_take_is_forgotten(own_server: RedisServer) -> None:
    async with await Queue.connect(own_server.url, deadline=0.2) as queue:
        own_server.kill()
        async with hearing(queue) as arrivals:
            arrivals.note("h.example", "a")


async def test_the_repositories_that_sweeps_named_last_are_kept(queue: Queue) -> None:
    sweeps = Sweeps(queue, lease=10.0)
    assert await sweeps.begin() is not None
    await command(queue, "LPUSH", f"{queue.prefix}:sweep:lost", "of another version")
    for number in range(MOST_LOST + 2):
        await sweeps.keep({}, number, f"h.example/team/{number}")
    state = await SweepState.read(queue)
    assert state.replaced == sum(range(MOST_LOST + 2))
    assert [(each.repository, each.copies) for each in state.lost] == [
        (f"h.example/team/{number}", number) for number in range(MOST_LOST + 1, 1, -1)
    ], "where nothing was lost, nothing is noted"


async def test_each_failed_attempt_of_a_destination_is_kept_with_its_time_and_reason(
    queue: Queue, handler: Recorder
) -> None:
    await command(queue, "LPUSH", f"{queue.prefix}:history:attempts", *(f'{{"id":"{n}"}}' for n in range(1005)))
    async with working(queue, handler):
        for name, classes in (("one", (ErrorClass.TRANSIENT, ErrorClass.NOT_YET)), ("two", (ErrorClass.TRANSIENT,))):
            handler.errors = [Fault(each) for each in classes]
            await queue.enqueue([Job(f"r.example/a/{name}", {})], Lane.EVENTS)
            await idle(queue)
    second, first = await list_attempts(queue, "r.example/a/one")
    assert (first.error_class, first.tries) == (ErrorClass.TRANSIENT, 1)
    assert (second.error_class, second.tries) == (ErrorClass.NOT_YET, 2)
    assert EPOCH < first.last <= second.last
    assert len(await list_attempts(queue, "r.example/a/two")) == 1
    assert await list_attempts(queue, "r.example/a/t") == []
    assert await command(queue, "LLEN", f"{queue.prefix}:history:attempts") == 1000
