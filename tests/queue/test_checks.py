"""Observations of destinations: the newest counts, a void one does not come back, and memory is bounded."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.queue import Job, KnownDestination, Lane, LeaseLost, Observations, Queue, Running, look_up
from replicator.queue.job import RunningRecord
from replicator.queue.lease import Lease, LeaseKeeper, RedisHealth
from replicator.queue.observations import RedisClock
from replicator.queue.records import EPOCH
from tests.queue.conftest import PATIENCE, command, eventually, idle, working

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

PLACE = "r.example/team/app:v1"


async def see(queue: Queue, *seen: tuple[str, str], ago: float = 0.0, **settings: Any) -> None:
    """Be a process that observed something some seconds ago, and has sent it."""
    async with aclosing(Observations(queue, **{"deadline": PATIENCE, **settings})) as checks:
        for destination, wanted in seen:
            checks.record(destination, wanted, time.time() - ago)


class Writer:
    """A worker that has the lease of a job, and is about to write its destination."""

    def __init__(self, queue: Queue, destination: str = PLACE) -> None:
        self.key = f"arq:in-progress:{queue.prefix}:{destination}"
        self._queue = queue
        self.lease = Lease(destination, RunningRecord("mine", Lane.EVENTS, "w", EPOCH, 0, 0, 0, 0), 0.0)
        self._keeper = LeaseKeeper(queue, 30.0, RedisHealth(30.0))
        self._keeper.add(self.lease)

    async def take(self) -> Self:
        await self._queue.redis.set(self.key, "mine", px=60_000)
        return self

    async def confirm(self) -> None:
        async with asyncio.timeout(20):
            await self._keeper.confirm(self.lease)


async def void(queue: Queue, destination: str = PLACE) -> None:
    """Be a worker that is about to write a destination."""
    await (await Writer(queue, destination).take()).confirm()


async def trusted(queue: Queue, wanted: str, destination: str = PLACE, within: float = 3600.0) -> bool:
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        [held] = await checks.confirmed([(destination, wanted)], within)
        return held


async def generations(queue: Queue) -> tuple[int, int]:
    new, old = [await command(queue, "HLEN", f"{queue.prefix}:checks:{name}") for name in ("new", "old")]
    return new, old


class Asked:
    """Counts what is asked of a queue's Redis."""

    def __init__(self, queue: Queue) -> None:
        self.scripts: list[tuple[str, int]] = []
        self._run_script = queue.run_script
        queue.run_script = self  # type: ignore[method-assign]  # to count, not to change what it does

    async def __call__(self, name: str, *arguments: str | bytes | float) -> Any:
        self.scripts.append((name, len(arguments)))
        return await self._run_script(name, *arguments)


async def test_what_one_process_saw_is_trusted_by_others_for_that_destination_and_image_alone(queue: Queue) -> None:
    await see(queue, (PLACE, "one"))
    assert await trusted(queue, "one")
    assert not await trusted(queue, "two")
    assert not await trusted(queue, "one", "r.example/team/app:v2")
    assert not await trusted(queue, "")


async def test_what_was_seen_too_long_ago_is_not_trusted(queue: Queue) -> None:
    await see(queue, (PLACE, "one"), ago=100)
    assert await trusted(queue, "one", within=200)
    assert not await trusted(queue, "one", within=50)
    assert not await trusted(queue, "one", within=0)
    assert await trusted(queue, "one", within=float("inf"))


async def test_an_image_that_another_has_replaced_and_that_came_back_is_not_trusted_by_its_first_sight(
    queue: Queue,
) -> None:
    await see(queue, (PLACE, "one"), ago=20)
    await see(queue, (PLACE, "two"), ago=10)
    assert not await trusted(queue, "one")
    assert await trusted(queue, "two")


async def test_the_newest_sight_counts_whichever_comes_in_first(queue: Queue) -> None:
    await see(queue, (PLACE, "new"), ago=10)
    await see(queue, (PLACE, "old"), ago=20)
    assert await trusted(queue, "new")
    assert not await trusted(queue, "old")


async def test_what_is_void_does_not_come_back_from_a_process_that_saw_it_before(queue: Queue) -> None:
    async with aclosing(Observations(queue, pause=60, deadline=PATIENCE)) as slow:
        slow.record(PLACE, "one", time.time())
        await see(queue, (PLACE, "one"))
        assert await trusted(queue, "one")
        await void(queue)
        assert not await trusted(queue, "one")
    assert not await trusted(queue, "one")
    await see(queue, (PLACE, "one"), ago=1)
    assert not await trusted(queue, "one")


async def test_a_worker_whose_lease_is_confirmed_may_write_and_what_was_seen_until_then_is_void(queue: Queue) -> None:
    other = "r.example/other:v1"
    await see(queue, (PLACE, "one"), (other, "one"))
    believed: list[bool] = []

    async def handle(running: Running) -> dict[str, Any]:
        for confirm in (False, True):
            if confirm:
                await running.confirm()
                running.answered()
            believed.append(await trusted(queue, "one"))
        return {}

    await queue.enqueue([Job(PLACE, {})], Lane.EVENTS)
    async with working(queue, handle, lease=30):
        await idle(queue)
    assert believed == [True, False]
    assert await trusted(queue, "one", other)


async def test_a_lease_that_is_lost_makes_nothing_void(queue: Queue) -> None:
    await see(queue, (PLACE, "one"))
    writer = await Writer(queue).take()
    await queue.redis.set(writer.key, "another", px=60_000)
    with pytest.raises(LeaseLost):
        await writer.confirm()
    assert await queue.redis.get(writer.key) == b"another"
    assert await trusted(queue, "one")
    # Nor is there a note for what nobody saw.
    await queue.redis.delete(f"{queue.prefix}:checks:new", writer.key)
    with pytest.raises(LeaseLost):
        await (writer := Writer(queue)).confirm()
    assert await generations(queue) == (0, 0)
    assert await queue.redis.exists(writer.key) == 0


async def test_what_is_seen_after_it_became_void_is_trusted(queue: Queue) -> None:
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        await void(queue)
        # As long as the quickest registry takes to write a tag.
        await asyncio.sleep(0.05)
        checks.record(PLACE, "one", time.time())
    assert await trusted(queue, "one")


async def test_a_machine_whose_clock_is_fast_saw_nothing_in_the_future(queue: Queue) -> None:
    await see(queue, (PLACE, "one"), ago=-3600)
    await void(queue)
    assert not await trusted(queue, "one")


async def test_what_was_noted_before_the_clock_was_set_back_far_is_not_believed_and_gives_way(queue: Queue) -> None:
    await see(queue, (PLACE, "one"))
    key = f"{queue.prefix}:checks:new"
    [item] = await command(queue, "HKEYS", key)
    await command(queue, "HSET", key, item, b"9999999999999 one")
    assert not await trusted(queue, "one", within=float("inf"))
    await see(queue, (PLACE, "one"))
    assert await trusted(queue, "one")


@pytest.mark.parametrize("value", [b"", b"one", b"\xff\xfe", b"12", b"12 ", b" one", b"x one"])
async def test_what_somebody_else_wrote_there_is_not_trusted_and_gives_way(queue: Queue, value: bytes) -> None:
    await see(queue, (PLACE, "one"))
    key = f"{queue.prefix}:checks:new"
    [item] = await command(queue, "HKEYS", key)
    await command(queue, "HSET", key, item, value)
    assert not await trusted(queue, "one")
    await see(queue, (PLACE, "one"))
    assert await trusted(queue, "one")


async def test_many_are_sent_and_asked_500_at_a_time(queue: Queue) -> None:
    seen = [(f"r.example/team/app:v{number}", f"{number}") for number in range(1200)]
    asked = Asked(queue)
    await see(queue, *seen, pause=60)
    # The first questions are for the time alone.
    assert asked.scripts == [
        *[("observations_record", 1)] * 5,
        ("observations_record", 1 + 5 * 500),
        ("observations_record", 1 + 5 * 500),
        ("observations_record", 1 + 5 * 200),
    ]
    asked.scripts.clear()
    wrong = [("r.example/team/app:v7", "8"), ("r.example/team/other:v7", "7")]
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        assert await checks.confirmed([*seen, *wrong], 60) == [True] * 1200 + [False] * 2
        assert await checks.confirmed([], 60) == []
    assert asked.scripts == [
        ("observations_confirmed", 1 + 3 * 500),
        ("observations_confirmed", 1 + 3 * 500),
        ("observations_confirmed", 1 + 3 * 202),
    ]


async def test_it_is_sent_without_waiting_for_the_end(queue: Queue) -> None:
    async with aclosing(Observations(queue, pause=0.05, deadline=PATIENCE)) as checks:
        for wanted in ("one", "two"):
            checks.record(PLACE, wanted, time.time())

            async def told(wanted: str = wanted) -> bool:
                return await trusted(queue, wanted)

            await eventually(told)


async def test_500_do_not_wait_for_more(queue: Queue) -> None:
    async with aclosing(Observations(queue, pause=3600, deadline=PATIENCE)) as checks:
        for number in range(500):
            checks.record(f"r.example/team/app:v{number}", "one", time.time())

        async def told() -> bool:
            return await trusted(queue, "one", "r.example/team/app:v499")

        await eventually(told)


async def test_what_waits_to_be_sent_is_bounded(queue: Queue) -> None:
    checks = Observations(queue, pause=3600, deadline=PATIENCE)
    for number in range(20_000):
        checks.record(f"r.example/team/app:v{number}", "one", time.time())
    assert len(checks._batcher._items) == 5000
    await checks.aclose()
    checks.record("r.example/late:v1", "one", time.time())
    assert not await trusted(queue, "one", "r.example/late:v1")
    assert await trusted(queue, "one", "r.example/team/app:v4999")


async def test_notes_of_what_is_void_are_bounded_and_expire_too(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.queue.lease.MOST_DESTINATIONS", 10)
    for number in range(35):
        await void(queue, f"r.example/team/app:v{number}")
    assert await generations(queue) == (5, 10)
    for generation in ("new", "old"):
        assert 29 * 86400 < await queue.redis.ttl(f"{queue.prefix}:checks:{generation}") <= 30 * 86400


async def test_memory_is_bounded_by_three_generations(queue: Queue) -> None:
    for number in range(100):
        await see(queue, (f"r.example/team/app:v{number}", "one"), items=10)
        assert max(await generations(queue)) <= 10
    held = [await trusted(queue, "one", f"r.example/team/app:v{number}") for number in range(100)]
    assert held[:70] == [False] * 70
    assert held[80:] == [True] * 20
    # What is seen again is in one of them alone.
    await see(queue, *((f"r.example/team/app:v{number}", "one") for number in (81, 91, 99)), items=10)
    keys = [f"{queue.prefix}:checks:{generation}" for generation in ("new", "old", "older")]
    items = [item for key in keys for item in await command(queue, "HKEYS", key)]
    assert len(items) == len(set(items))


async def test_the_digest_of_the_source_is_remembered_with_what_was_seen(queue: Queue) -> None:
    digest = f"sha256:{'ab' * 32}"
    async with aclosing(Observations(queue, deadline=PATIENCE, pause=0)) as checks:
        checks.record(PLACE, "one", time.time(), "h.example/app:v1", digest)
    assert await trusted(queue, "one")
    [known] = await look_up(queue, [PLACE])
    assert known.observed is not None
    assert (known.observed.wanted, known.observed.digest, known.tag.source) == ("one", digest, "h.example/app:v1")
    await void(queue)
    [known] = await look_up(queue, [PLACE])
    assert known.observed is None, "its tag is about to be written"


async def test_one_look_tells_what_the_queue_knows_of_a_destination(queue: Queue) -> None:
    await queue.enqueue([Job(PLACE, {"source": "h.example/app:v1"})], Lane.EVENTS)
    queued, nothing = await look_up(queue, [PLACE, "r.example/other:v1"])
    assert nothing == KnownDestination()
    assert queued.job is not None
    assert (queued.job.state, queued.job.lane) == ("queued", Lane.EVENTS)
    assert queued.job.payload == {"source": "h.example/app:v1"}


async def test_what_was_seen_expires_in_a_month(queue: Queue) -> None:
    await see(queue, *((f"r.example/team/app:v{number}", "one") for number in range(3)), items=2)
    for generation in ("new", "old"):
        assert 29 * 86400 < await queue.redis.ttl(f"{queue.prefix}:checks:{generation}") <= 30 * 86400


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["see", "see", "void"]),
        st.sampled_from(["v1", "v2"]),
        st.sampled_from(["one", "two"]),
        st.integers(1, 50),
    ),
    max_size=20,
    # Of two sights at one moment either may be the newer.
    unique_by=lambda step: step[3],
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_only_the_newest_sight_since_the_last_confirmation_is_trusted(
    server: RedisServer, steps: list[tuple[str, str, str, int]]
) -> None:
    async def run() -> None:
        known: dict[str, tuple[float, str]] = {}
        async with await Queue.connect(server.url, prefix=uuid4().hex) as queue:
            for step, tag, wanted, ago in steps:
                if step == "void":
                    await void(queue, tag)
                    known[tag] = (0, "")
                else:
                    await see(queue, (tag, wanted), ago=ago * 100)
                    # A hundred seconds are more than the whole test takes.
                    if tag not in known or -ago > known[tag][0]:
                        known[tag] = (-ago, wanted)
            for tag in ("v1", "v2"):
                for wanted in ("one", "two"):
                    assert await trusted(queue, wanted, tag, 86400) is (known.get(tag, (0, ""))[1] == wanted)

    asyncio.run(run())


class Watch:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_of_redis_is_unknown_before_the_first_answer() -> None:
    assert RedisClock(Watch()).showed(50.0) is None


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), min_size=1, max_size=10))
def test_a_moment_is_never_taken_for_a_later_one_than_it_was(delays: list[tuple[int, int]]) -> None:
    watch, redis_ahead = Watch(), 1_700_000_000
    clock = RedisClock(watch)
    for pause, under_way in delays:
        watch.now += pause / 1000
        told = int((watch.now + redis_ahead) * 1000)
        watch.now += under_way / 1000
        clock.heard(told)
        shown = clock.showed(watch.now)
        assert shown is not None
        assert shown <= (watch.now + redis_ahead) * 1000
        # Nor for one that was long before: by the way of the answer at the most.
        assert shown >= told - 1


def test_a_clock_that_was_set_back_is_noticed_in_ten_seconds() -> None:
    watch = Watch()
    clock = RedisClock(watch)
    clock.heard(1_000_000)
    watch.now += 11
    clock.heard(500_000)
    assert clock.showed(watch.now) == 500_000
