"""Limits that processes share: never more than the limit in all, and nothing left lying that somebody could use."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from replicator.queue import FIRST_SHARE, Queue, sharing
from replicator.queue.shares import Shares
from replicator.registry.rate import Rate, Rates
from replicator.timetable import parse_bandwidth, parse_request_rates
from tests.queue.conftest import PATIENCE, command, eventually
from tests.registry.line import Body, Clock, Line, total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.queue.servers import RedisServer

MBIT = 1e6 / 8


class Processes:
    """Processes that send through one line; their shares are renewed by its clock, in the real Redis."""

    def __init__(self, queue: Queue, limit: str, number: int, *, requests: bool = False) -> None:
        self.clock = Clock()
        self.line = Line(self.clock)
        self.table = (parse_request_rates if requests else parse_bandwidth)(limit).general
        self.rates: list[Rate] = []
        self.shares: list[Shares] = []
        self.away: set[int] = set()
        self._queue = queue
        for _ in range(number):
            self._add(requests=requests)

    def _add(self, *, requests: bool) -> None:
        number = len(self.rates)
        least, most = (1, 1) if requests else (2048, 65536)
        rate = Rate(self.table, least=least, most=most, clock=self.clock, wall=self.clock, share=FIRST_SHARE)
        shares = Shares(self._queue, lambda: [("upload h", rate)], clock=self.clock, deadline=PATIENCE)

        async def renew() -> float | None:
            if number not in self.away:
                await shares.beat()
            return None

        async def regularly() -> float:
            await renew()
            return 0.25 if shares._short else 0.5

        self.rates.append(rate)
        self.shares.append(shares)
        rate._on_start = lambda: self.line.now(renew)
        # Not all at the same moment, as in life.
        self.line.at(0.13 * number, regularly)

    async def run(self, seconds: float, bodies: Sequence[Body]) -> int:
        await self.line.run(seconds, bodies)
        return total(bodies)


def most_of(bodies: Sequence[Body], seconds: float, limit: float) -> float:
    """The largest part of the limit that any second used."""
    return max(total(bodies, second, second + 1.0) for second in range(int(seconds))) / limit


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_processes_together_use_the_limit_and_no_more(queue: Queue, number: int) -> None:
    processes = Processes(queue, "20Mbit/s", number)
    bodies = [Body(rate) for rate in processes.rates for _ in range(3)]
    assert await processes.run(30.0, bodies) == pytest.approx(75e6, rel=0.05)
    assert most_of(bodies, 30.0, 20 * MBIT) < 1.3
    shares = [sum(body.total(5.0) for body in bodies if body.rate is rate) for rate in processes.rates]
    assert min(shares) > 0.8 * max(shares)


async def test_processes_that_come_one_after_the_other_never_exceed_the_limit(queue: Queue) -> None:
    processes = Processes(queue, "20Mbit/s", 4)
    bodies = [Body(rate, start=5.0 * number) for number, rate in enumerate(processes.rates)]
    assert await processes.run(30.0, bodies) == pytest.approx(75e6, rel=0.05)
    assert most_of(bodies, 30.0, 20 * MBIT) < 1.3


async def test_what_a_process_does_not_use_goes_to_the_others_within_two_seconds(queue: Queue) -> None:
    processes = Processes(queue, "20Mbit/s", 3)
    first, second, third = processes.rates
    # One ends after five seconds, one has a slow source.
    ends, slow, all_ = Body(first, int(4e6)), Body(second, own=2e5), Body(third)
    assert await processes.run(30.0, [ends, slow, all_]) == pytest.approx(75e6, rel=0.06)
    assert slow.total(5.0) == pytest.approx(25 * 2e5, rel=0.05)
    assert all_.total(ends.end + 2.0, 30.0) > 0.94 * (20 * MBIT - 2e5) * (28.0 - ends.end)


async def test_the_pushes_of_one_process_go_before_the_backfills_of_others(queue: Queue) -> None:
    processes = Processes(queue, "20Mbit/s", 3)
    first, second, third = processes.rates
    bulk = [Body(rate) for rate in (first, second) for _ in range(4)]
    small = Body(third, 128 * 1024, bulk=False, start=5.0)
    large = Body(third, int(12.5e6), bulk=False, start=10.0)
    assert await processes.run(30.0, [*bulk, small, large]) == pytest.approx(75e6, rel=0.06)
    assert small.end < 7.0
    assert large.end < 10.0 + 5.0 / 0.8 + 2.0


async def test_small_pushes_in_between_cost_no_bandwidth(queue: Queue) -> None:
    processes = Processes(queue, "20Mbit/s", 3)
    bulk = [Body(rate) for rate in processes.rates for _ in range(4)]
    pushes = [Body(processes.rates[0], 128 * 1024, bulk=False, start=3.0 * number) for number in range(1, 9)]
    assert await processes.run(30.0, [*bulk, *pushes]) == pytest.approx(75e6, rel=0.04)
    assert all(push.end - push.start < 0.5 for push in pushes)


async def test_the_limit_holds_over_the_edge_of_a_window(queue: Queue) -> None:
    # The simulated clock begins at 13:46:40.
    processes = Processes(queue, "13:47-14:00 UTC 20Mbit/s, else unlimited", 3)
    bodies = [Body(rate, own=5e5) for rate in processes.rates for _ in range(4)]
    await processes.run(55.0, bodies)
    assert total(bodies, 0.0, 20.0) == pytest.approx(20 * 6e6, rel=0.05)
    assert total(bodies, 20.0, 50.0) == pytest.approx(75e6, rel=0.05)


async def test_requests_are_shared_like_bytes(queue: Queue) -> None:
    processes = Processes(queue, "20", 3, requests=True)
    bodies = [Body(rate) for rate in processes.rates for _ in range(8)]
    assert await processes.run(30.0, bodies) == pytest.approx(600, rel=0.05)


async def test_while_redis_is_away_the_shares_stay_and_then_each_takes_an_equal_part(queue: Queue) -> None:
    processes = Processes(queue, "20Mbit/s", 3)
    bodies = [Body(rate) for rate in processes.rates for _ in range(2)]

    async def vanish() -> None:
        for shares in processes.shares:

            async def silent(*_: object) -> None:
                return None

            shares._ask = silent  # type: ignore[method-assign,assignment]  # no answer

    processes.line.at(5.0, vanish)
    assert await processes.run(35.0, bodies) == pytest.approx(35 * 20 * MBIT, rel=0.05)
    assert most_of(bodies, 35.0, 20 * MBIT) < 1.3


async def test_a_process_alone_without_redis_takes_all(queue: Queue) -> None:
    processes = Processes(queue, "20Mbit/s", 1)
    (rate,), (shares,) = processes.rates, processes.shares

    async def silent(*_: object) -> None:
        return None

    shares._ask = silent  # type: ignore[method-assign,assignment]  # no answer
    body = Body(rate)
    await processes.run(45.0, [body])
    assert body.total(0.0, 25.0) < 0.1 * 25 * 20 * MBIT, "it may be one of many"
    assert body.total(32.0, 42.0) == pytest.approx(10 * 20 * MBIT, rel=0.05)


async def test_the_share_of_a_process_that_died_is_free_after_seconds(queue: Queue) -> None:
    clock = Clock()
    rates = [Rate(parse_bandwidth("20Mbit/s").general, clock=clock, wall=clock, share=FIRST_SHARE) for _ in range(2)]
    dead = Shares(queue, lambda: [("upload h", rates[0])], clock=clock, seconds=0.2)
    alive = Shares(queue, lambda: [("upload h", rates[1])], clock=clock, seconds=0.2)
    with rates[0].turn(1, bulk=True), rates[1].turn(1, bulk=True):
        for shares in (dead, alive, dead):
            clock.now += 1.0
            await shares.beat()

        async def has_all() -> bool:
            clock.now += 1.0
            await alive.beat()
            return rates[1]._share > 0.99

        assert not await has_all()
        await eventually(has_all)


async def test_what_is_stored_is_bounded_and_gone_when_nothing_is_sent(queue: Queue) -> None:
    clock = Clock()
    names = [f"upload h{number}" for number in range(20)]
    rates = {name: Rate(parse_bandwidth("20Mbit/s").general, clock=clock, wall=clock) for name in names}
    shares = Shares(queue, rates.items, clock=clock)
    assert await shares.beat() is False
    for rate in rates.values():
        rate.ask(1, bulk=True)
    assert await shares.beat() is True
    stored = await command(queue, "HKEYS", f"{queue.prefix}:shares")
    assert len(stored) == 20
    clock.now += 5.0
    assert await shares.beat() is False
    assert await command(queue, "EXISTS", f"{queue.prefix}:shares") == 0
    assert {rate._share for rate in rates.values()} == {FIRST_SHARE}


async def test_a_record_of_another_version_harms_nothing(queue: Queue) -> None:
    clock = Clock()
    rate = Rate(parse_bandwidth("20Mbit/s").general, clock=clock, wall=clock, share=FIRST_SHARE)
    shares = Shares(queue, lambda: [("upload h", rate)], clock=clock)
    record = {"name": "upload other", "process": "x", "until": 1, "share": 1, "more": [1]}
    await command(queue, "HSET", f"{queue.prefix}:shares", "x upload other", json.dumps(record))
    rate.ask(1, bulk=True)
    await shares.beat()
    assert rate._share > 0.99


async def test_a_running_process_gets_its_share_as_soon_as_it_sends(server: RedisServer, prefix: str) -> None:
    rates = Rates(parse_bandwidth("20Mbit/s"))
    rates.first_share = FIRST_SHARE
    async with await Queue.connect(server.url, prefix=prefix) as queue:
        async with sharing(queue, rates.items) as shares:
            rates.on_start = shares.wake
            rate = rates.upload("h")
            await asyncio.sleep(0)
            rate.ask(1, bulk=False)

            async def has_all() -> bool:
                return rate._share > 0.99

            await eventually(has_all)
        assert await command(queue, "EXISTS", f"{prefix}:shares") == 0, "it gives its share up when it ends"
