"""The delaying proxy changes nothing but the time."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest
from aiohttp import web

from tests.standins.latency import delayed
from tests.standins.server import serve

DELAY = 0.05
MIB = 2**20


async def echo(request: web.BaseRequest) -> web.Response:
    return web.Response(body=await request.read())


async def test_each_request_takes_longer_on_a_connection_that_lasts() -> None:
    clock = asyncio.get_running_loop().time
    async with serve(echo) as behind, delayed(behind, DELAY) as host, aiohttp.ClientSession() as session:
        for _ in range(3):
            began = clock()
            async with session.post(f"http://{host}/", data=b"x") as answer:
                assert await answer.read() == b"x"
            assert clock() - began >= DELAY


async def test_large_bodies_pass_unchanged_both_ways() -> None:
    body = bytes(range(256)) * (8 * MIB // 256)
    async with (
        serve(echo) as behind,
        delayed(behind, DELAY) as host,
        aiohttp.ClientSession() as session,
        session.post(f"http://{host}/", data=io.BytesIO(body)) as answer,
    ):
        assert await answer.read() == body


async def test_an_end_of_either_side_reaches_the_other() -> None:
    async def break_off(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serve(break_off) as behind, delayed(behind, 0) as host, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{host}/")


async def test_nobody_behind_ends_the_connection() -> None:
    async with serve(echo) as gone:
        pass
    async with delayed(gone, 0) as host, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{host}/")


async def test_it_ends_with_connections_still_open() -> None:
    async def never(request: web.BaseRequest) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    arrived = asyncio.Event()
    async with serve(never) as behind, aiohttp.ClientSession() as session:
        async with delayed(behind, 0) as host:
            asking = asyncio.create_task(session.get(f"http://{host}/"))
            await arrived.wait()
        with pytest.raises(aiohttp.ClientError):
            await asking
