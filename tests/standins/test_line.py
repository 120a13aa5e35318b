"""The line changes nothing but the time, and keeps its rate whatever uses it."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest
from aiohttp import web

from tests.standins.line import apart, line
from tests.standins.server import serve

KIB = 2**10
MIB = 2**20


async def echo(request: web.BaseRequest) -> web.Response:
    return web.Response(body=await request.read())


async def test_large_bodies_pass_unchanged_both_ways_and_are_counted() -> None:
    body = bytes(range(256)) * (4 * MIB // 256)
    async with (
        serve(echo) as behind,
        line(behind, round_trip=0.002) as front,
        aiohttp.ClientSession() as session,
        session.post(f"http://{front}/", data=io.BytesIO(body)) as answer,
    ):
        assert await answer.read() == body
        assert 4 * MIB < front.sent < 4.1 * MIB
        assert 4 * MIB < front.received < 4.1 * MIB
        assert front.connections == 1


async def test_connections_share_the_rate_each_way() -> None:
    clock = asyncio.get_running_loop().time
    async with serve(echo) as behind, line(behind, rate=MIB) as front, aiohttp.ClientSession() as session:

        async def ask() -> None:
            async with session.post(f"http://{front}/", data=bytes(128 * KIB)) as answer:
                assert len(await answer.read()) == 128 * KIB

        began = clock()
        await asyncio.gather(*(ask() for _ in range(4)))
        # 512 KiB up, of which a late timer may catch up two fifths.
        assert clock() - began > 0.25


async def test_each_answer_takes_a_round_trip_and_the_first_of_a_connection_two() -> None:
    clock = asyncio.get_running_loop().time
    async with serve(echo) as behind, line(behind, round_trip=0.05) as front, aiohttp.ClientSession() as session:
        for least in (0.1, 0.05, 0.05):
            began = clock()
            async with session.post(f"http://{front}/", data=b"x") as answer:
                assert await answer.read() == b"x"
            assert clock() - began >= least * 0.99


async def test_a_window_bounds_what_a_connection_has_under_way() -> None:
    clock = asyncio.get_running_loop().time
    async with (
        serve(echo) as behind,
        line(behind, round_trip=0.05, window=64 * KIB) as front,
        aiohttp.ClientSession() as session,
    ):
        began = clock()
        async with session.post(f"http://{front}/", data=bytes(256 * KIB)) as answer:
            await answer.read()
        # Handshake, three windows before the last one can leave, and the answer likewise.
        assert clock() - began > 0.2


async def test_a_line_that_stands_still_lets_nothing_pass_until_it_moves() -> None:
    async with serve(echo) as behind, line(behind, rate=0) as front, aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(f"http://{front}/", data=b"x"))
        while not front.connections:
            await asyncio.sleep(0.01)
        assert (front.sent, front.received) == (0, 0)
        front.rate = MIB
        async with await asking as answer:
            assert await answer.read() == b"x"


async def test_a_cut_and_an_end_break_what_is_under_way() -> None:
    async def never(request: web.BaseRequest) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    arrived = asyncio.Event()
    async with serve(never) as behind, aiohttp.ClientSession() as session:
        async with line(behind) as front:
            for end in (front.cut, None):
                arrived.clear()
                # The client library asks anew for what may be repeated, so it is a POST.
                asking = asyncio.create_task(session.post(f"http://{front}/"))
                await arrived.wait()
                if end is not None:
                    end()
                    with pytest.raises(aiohttp.ClientError):
                        await asking
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_nobody_behind_ends_the_connection() -> None:
    async with serve(echo) as gone:
        pass
    async with line(gone) as front, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{front}/")


async def test_a_line_apart_counts_and_takes_another_rate() -> None:
    async with serve(echo) as behind, apart(behind, rate=0) as front, aiohttp.ClientSession() as session:
        assert await front.passed() == (0, 0)
        await front.change(None)
        async with session.post(f"http://{front}/", data=bytes(64 * KIB)) as answer:
            assert len(await answer.read()) == 64 * KIB
        sent, received = await front.passed()
        assert min(sent, received) > 64 * KIB
