"""A rate holds its limit, lets pushes go first, and leaves nobody without a byte."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.registry.rate import Rate, Rates
from replicator.timetable import Timetable, parse_bandwidth, parse_request_rates
from tests.registry.line import Body, Clock, Line, total

MBIT = 1e6 / 8


def table(text: str) -> Timetable:
    return parse_bandwidth(text).general


def rate_of(text: str, clock: Clock, **more: Any) -> Rate:
    return Rate(table(text), clock=clock, wall=clock, **more)


async def sent(clock: Clock, seconds: float, *bodies: Body) -> int:
    await Line(clock).run(seconds, bodies)
    return total(bodies)


@pytest.mark.parametrize("number", [1, 7, 32])
@pytest.mark.parametrize("limit", [1, 20, 1000])
async def test_over_thirty_seconds_the_limit_is_used_and_not_exceeded(limit: int, number: int) -> None:
    clock = Clock()
    rate = rate_of(f"{limit}Mbit/s", clock)
    bodies = [Body(rate) for _ in range(number)]
    seconds = 30.0 if limit < 1000 else 1.0
    assert await sent(clock, seconds, *bodies) == pytest.approx(limit * MBIT * seconds, rel=0.015)
    assert min(body.total() for body in bodies) > 0.9 * max(body.total() for body in bodies)


async def test_what_is_not_used_is_lost_but_for_a_quarter_of_a_second() -> None:
    clock = Clock()
    rate = rate_of("8Mbit/s", clock)
    clock.now += 3600
    assert await sent(clock, 1.0, Body(rate)) <= 1.3e6


async def test_pushes_have_the_line_while_backfills_wait_and_then_backfills_have_it_all() -> None:
    clock = Clock()
    rate = rate_of("20Mbit/s", clock)
    bulk = [Body(rate) for _ in range(8)]
    push = Body(rate, int(25e6), bulk=False, start=10.0)
    assert await sent(clock, 30.0, *bulk, push) == pytest.approx(75e6, rel=0.01)
    assert push.end < 10 + 25e6 / (0.8 * 20 * MBIT), "it gets four fifths of the line at least"
    assert total(bulk, push.end + 0.5, 30.0) == pytest.approx((29.5 - push.end) * 20 * MBIT, rel=0.03)


async def test_a_small_push_beside_backfills_goes_at_once() -> None:
    clock = Clock()
    rate = rate_of("16Mbit/s", clock)
    push = Body(rate, 128 * 1024, bulk=False, start=5.0)
    await sent(clock, 10.0, *(Body(rate) for _ in range(8)), push)
    assert push.end < 5.0 + 0.2


async def test_a_body_that_is_held_back_moves_64_kib_every_ten_seconds() -> None:
    clock = Clock()
    rate = rate_of("20Mbit/s", clock)
    bulk = [Body(rate) for _ in range(8)]
    await sent(clock, 60.0, *bulk, *(Body(rate, bulk=False) for _ in range(3)))
    for body in bulk:
        for second in range(50):
            assert body.total(second, second + 10.0) >= 64 * 1024


async def test_on_a_slow_line_bodies_that_are_held_back_take_no_more_than_a_fifth_of_it() -> None:
    clock = Clock()
    rate = rate_of("1Mbit/s", clock)
    bulk = [Body(rate) for _ in range(16)]
    push = Body(rate, bulk=False)
    await sent(clock, 60.0, *bulk, push)
    assert push.total() > 0.78 * 60 * MBIT
    assert all(body.total() for body in bulk)


@pytest.mark.parametrize("before", ["unlimited", "100Mbit/s", "2Mbit/s"])
async def test_at_the_edge_of_a_window_the_limit_changes_at_once(before: str) -> None:
    # One hour and twenty seconds past midnight is ten seconds before the window.
    clock = Clock(86_400.0 * 10 + 3600 - 10)
    rate = rate_of(f"01:00-02:00 UTC 20Mbit/s, else {before}", clock)
    bodies = [Body(rate, own=1e6) for _ in range(8)]
    await sent(clock, 40.0, *bodies)
    assert total(bodies, 10.0, 40.0) == pytest.approx(75e6, rel=0.02)
    expected = {"unlimited": 80e6, "100Mbit/s": 80e6, "2Mbit/s": 2.5e6}[before]
    assert total(bodies, 0.0, 10.0) == pytest.approx(expected, rel=0.05)


async def test_another_timetable_holds_for_what_is_under_way() -> None:
    clock = Clock()
    rate = rate_of("2Mbit/s", clock)
    bodies, line = [Body(rate), Body(rate)], Line(clock)

    async def renew() -> None:
        rate.renew(table("20Mbit/s"))

    line.at(10.0, renew)
    await line.run(40.0, bodies)
    assert total(bodies, 0.0, 10.0) == pytest.approx(2.5e6, rel=0.02)
    assert total(bodies, 10.0, 40.0) == pytest.approx(75e6, rel=0.02)


async def test_a_share_is_a_part_of_the_limit_and_never_nothing() -> None:
    clock = Clock()
    rate = rate_of("8Mbit/s", clock)
    rate.set_share(0.25)
    assert await sent(clock, 10.0, Body(rate), Body(rate)) == pytest.approx(2.5e6, rel=0.02)
    rate.set_share(0.0)
    assert await sent(clock, 10.0, Body(rate)) > 0


@given(st.lists(st.tuples(st.integers(1, 300_000), st.booleans()), min_size=1, max_size=60))
@settings(deadline=None, max_examples=30)
async def test_bodies_of_any_size_all_arrive_within_the_limit(sizes: list[tuple[int, bool]]) -> None:
    clock = Clock()
    rate = rate_of("8Mbit/s", clock)
    bodies = [Body(rate, size, bulk=bulk) for size, bulk in sizes]
    await sent(clock, 1000.0, *bodies)
    assert [body.total() for body in bodies] == [size for size, _ in sizes]
    needed = sum(size for size, _ in sizes) / 1e6
    assert max(body.end for body in bodies) <= needed + 1.0
    for body in bodies:
        assert total(bodies, 0.0, body.end) <= 1e6 * (body.end + 0.35)


async def test_what_has_gone_in_any_case_is_made_up_for() -> None:
    clock = Clock()
    rate = rate_of("8Mbit/s", clock)
    rate.spent(2_000_000)
    body = Body(rate)
    await sent(clock, 3.0, body)
    assert body.sent[0][0] >= 1.9


async def test_requests_are_counted_one_by_one_and_those_of_pushes_first() -> None:
    clock = Clock()
    rates = Rates(requests=parse_request_rates("5"))
    rate = Rate(rates.timetable("requests", "h"), least=1, most=1, clock=clock, wall=clock)
    bulk = [Body(rate) for _ in range(20)]
    pushes = [Body(rate, 10, bulk=False, start=10.0) for _ in range(2)]
    assert await sent(clock, 30.0, *bulk, *pushes) == pytest.approx(150, abs=2)
    assert max(push.end for push in pushes) <= 10 + 20 / 5 / 0.8
    assert total(bulk, 10.0, 13.5) <= 4


async def test_without_a_limit_a_chunk_stays_whole_and_nothing_waits() -> None:
    rate = Rate()
    assert rate.piece is None
    assert rate.ask(1 << 40, bulk=True) == 0
    assert Rate(table("1Mbit/s")).piece == 6250


async def test_a_waiter_that_is_cancelled_leaves_the_line_to_others() -> None:
    rate = Rate(table("64Mbit/s"))
    rate.spent(800_000)
    gone = [asyncio.create_task(rate.passes(65536, bulk=False)) for _ in range(10)]
    await asyncio.sleep(0)
    stays = asyncio.create_task(rate.passes(1, bulk=True))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(stays, *gone, return_exceptions=True)
    assert stays.exception() is None
    assert rate.load().used_bulk > 0


def test_threads_share_one_rate() -> None:
    rate = Rate(table("80Mbit/s"))
    began = time.monotonic()

    def send() -> None:
        for _ in range(20):
            with rate.turn(10_000, bulk=False) as turn:
                while pause := turn.delay():
                    time.sleep(pause)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1e7 * (time.monotonic() - began + 0.25) >= 800_000
    assert rate.load().used_events * 1e7 > 0


def test_a_load_tells_what_waited_and_what_was_used() -> None:
    clock = Clock()
    rate = rate_of("8Mbit/s", clock)
    assert rate.load() == (False, 0.0, 0.0, 0.0, 0.0)
    clock.now += 1.0
    rate.ask(250_000, bulk=False)
    with rate.turn(1000, bulk=True), rate.turn(1000, bulk=True):
        clock.now += 1.0
        load = rate.load()
    assert (load.active, load.events, load.bulk) == (True, 0.0, 1.0)
    assert (load.used_events, load.used_bulk) == (0.125, 0.0)
    clock.now += 3.0
    assert rate.load() == (False, 0.0, 0.0, 0.0, 0.0)


def test_each_host_has_its_own_rate_and_only_what_may_be_limited_is_listed() -> None:
    started: list[str] = []
    rates = Rates(parse_bandwidth("8Mbit/s; b.example=unlimited"), parse_request_rates("unlimited"))
    rates.on_start = lambda: started.append("start")
    assert rates.upload("a.example") is rates.upload("A.example")
    for rate in (rates.upload("a.example"), rates.upload("b.example"), rates.requests("a.example")):
        rate.ask(1, bulk=False)
        rate.ask(1, bulk=False)
    assert [name for name, _ in rates.items()] == ["upload a.example"]
    assert started == ["start"]
    rates.renew(parse_bandwidth("unlimited"), parse_request_rates("7"))
    assert [name for name, _ in rates.items()] == ["requests a.example"]
    assert rates.upload("a.example").piece is None
