"""The processor time of one short request, a HEAD of a manifest: ``python -m benchmarks.head CLIENT URL REQUESTS``.

It prints JSON with CPU seconds and wall seconds of one request, by the fastest of some parts: what a client costs once
it is warm. `contenders` are our client, bare aiohttp, and httptools on asyncio with next to nothing around it, which
says what is possible in Python.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import httptools
import uvloop
from yarl import URL

from benchmarks.contest import Contender
from benchmarks.measuring import SAID, Measurement, measure
from replicator.reference import Repository
from replicator.registry.client import Registries
from replicator.registry.credentials import Access
from replicator.registry.manifest import ACCEPT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.contest import Route

_PARTS = 5
_WARM = 200
"""Requests before any is measured."""


def contenders(requests: int) -> list[Contender]:
    """Every client with so many requests."""
    return [_contender(name, requests) for name in _CLIENTS]


def _contender(name: str, requests: int) -> Contender:
    async def run(route: Route) -> Measurement:
        ((_, target),) = route.references
        command = [sys.executable, "-m", "benchmarks.head", name, f"http://{target}", str(requests)]
        took = await measure(command, route.scratch)
        one = json.loads((route.scratch / SAID).read_text().splitlines()[-1])
        return Measurement(one["seconds"], one["cpu"], took.peak)

    return Contender(name, run)


async def _ours(url: URL, measured: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]) -> None:
    path, _, tag = url.path[1:].rpartition(":")
    async with Registries(lambda _: Access(insecure=True)) as registries:
        repository = registries.source(Repository(url.authority, path))
        await measured(lambda: repository.head_manifest(tag))


async def _aiohttp(url: URL, measured: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept": ACCEPT}) as session:
        address = _manifest(url)

        async def ask() -> None:
            async with session.head(address) as answer:
                assert answer.headers["Docker-Content-Digest"]

        await measured(ask)


async def _httptools(url: URL, measured: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]) -> None:
    request = f"HEAD {_manifest(url).path} HTTP/1.1\r\nHost: {url.authority}\r\nAccept: {ACCEPT}\r\n\r\n".encode()
    host, _, port = url.authority.rpartition(":")
    transport, protocol = await asyncio.get_running_loop().create_connection(_Answers, host, int(port))

    async def ask() -> None:
        async with asyncio.timeout(60):
            transport.write(request)
            await protocol.answer()

    await measured(ask)
    transport.close()


class _Answers(asyncio.Protocol):
    """Reads the headers of one answer after another."""

    def __init__(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._done: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)

    async def answer(self) -> None:
        """Wait for the headers of the answer to a HEAD."""
        self._headers = {}
        # It would wait for the body that Content-Length announces: a new one for each answer.
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        await self._done
        assert self._headers[b"Docker-Content-Digest"]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _manifest(url: URL) -> URL:
    path, _, tag = url.path[1:].rpartition(":")
    return url.with_path(f"/v2/{path}/manifests/{tag}")


_CLIENTS = {"replicator": _ours, "aiohttp": _aiohttp, "httptools": _httptools}


async def main(client: str, url: URL, requests: int) -> None:
    """Measure, and print."""
    parts: list[tuple[float, float]] = []

    async def measured(ask: Callable[[], Awaitable[Any]]) -> None:
        for _ in range(_WARM):
            await ask()
        number = max(1, requests // _PARTS)
        for _ in range(_PARTS):
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(number):
                await ask()
            parts.append(((time.process_time() - cpu) / number, (time.perf_counter() - wall) / number))

    await _CLIENTS[client](url, measured)
    cpu, seconds = min(parts)
    print(json.dumps({"cpu": cpu, "seconds": seconds}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], URL(sys.argv[2]), int(sys.argv[3])))
