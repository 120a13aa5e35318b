"""The addresses that a registry may lead to: other hosts, but not this machine (SSRF); and answers without end."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from yarl import URL

from replicator.errors import ErrorClass
from replicator.networks import is_internal
from replicator.reference import Repository
from replicator.registry import Access, Request, Timing
from replicator.registry.connection import find_base
from replicator.registry.errors import (
    ConnectionFailed,
    NotFound,
    NoTls,
    ProtocolViolated,
    RegistryError,
    UnsupportedManifest,
)
from tests.registry.conftest import client, repository, served
from tests.standins.faults import Fault, Redirect
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from tests.standins.server import Handler

MIB = 1024 * 1024
INTERNAL = "127.0.0.2"


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


class Inside:
    """An internal service at ``host`` that no registry may reach; ``asked`` are the requests it got."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.host = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        return web.json_response({"token": "t"})


@pytest.fixture
async def inside(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inside]:
    """Let a single address of this machine count as internal, since the registry is on it as well."""
    monkeypatch.setattr("replicator.registry.addresses.is_internal", lambda address: address == INTERNAL)
    service = Inside()
    server = web.Server(service.answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, INTERNAL, 0)
    await site.start()
    service.host = f"{INTERNAL}:{runner.addresses[0][1]}"
    yield service
    await runner.cleanup()


def realm_at(where: str) -> Handler:
    async def challenge(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{where}/token"'})

    return challenge


async def test_a_redirect_does_not_lead_to_an_internal_address(inside: Inside) -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Redirect(location=f"http://{inside.host}/latest/meta-data/"), times=None))
        with pytest.raises(ProtocolViolated, match="an address of this machine") as caught:
            await remote.get_manifest("v1")
        assert caught.value.error_class is ErrorClass.PERMANENT
        # Another attempt would end the same way.
        assert len(faults.log) == 1
    assert inside.asked == []


async def test_a_challenge_does_not_lead_to_an_internal_address(inside: Inside) -> None:
    async with repository(realm_at(inside.host)) as (remote, _):
        with pytest.raises(ProtocolViolated, match="an address of this machine"):
            await remote.get_manifest("v1")
    assert inside.asked == []


async def test_a_registry_of_this_machine_may_lead_to_this_machine(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.registry.addresses.is_internal", is_internal)
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Redirect(location=f"http://{inside.host}/o")))
        with pytest.raises(UnsupportedManifest):
            await remote.get_manifest("v1")
    assert inside.asked == ["GET /o"]


async def test_elsewhere_a_redirect_is_followed(inside: Inside) -> None:
    async with served(nothing) as storage, repository(nothing) as (remote, faults):
        faults.add(Fault(Redirect(location=f"http://{storage.host.replace('127.0.0.1', 'localhost')}/o")))
        with pytest.raises(NotFound):
            await remote.get_manifest("v1")
        assert len(storage.faults.log) == 1


async def test_a_token_endpoint_that_drips_its_answer_meets_the_deadline_of_a_read() -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "60000"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    async with serve(drip) as endpoint, served(realm_at(endpoint)) as server:
        timing = Timing(read=0.3, commit=60, attempts=1)
        async with client(Access(endpoint=f"http://{server.host}"), timing) as registries:
            transport = registries.transport(Repository(server.host, "team/app"))
            # As a blob is read: a stream has no deadline over all of it.
            with pytest.raises(ConnectionFailed, match="stopped answering"):
                async with transport.exchange(Request("GET", await transport.url("/v2/x"), frozenset({"s"}))):
                    pass


async def test_a_repository_with_more_tags_than_can_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.registry.manifests.MAX_TAGS", 25)

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        page = int(request.query.get("page", "0"))
        link = {"Link": f'</v2/team/app/tags/list?page={page + 1}>; rel="next"'}
        return web.json_response({"tags": [f"{page}-{number}" for number in range(10)]}, headers=link)

    async with repository(flood) as (remote, faults):
        with pytest.raises(ProtocolViolated, match="more than 25 tags"):
            _ = [tag async for tag in remote.tags()]
        assert len(faults.log) == 3


async def test_interim_answers_without_end_end_the_request_and_take_no_memory() -> None:
    early, sent = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2000, 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while sent < 16 * MIB:
                writer.write(early)
                await writer.drain()
                sent += len(early)
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, client(Access(endpoint=f"http://{host}:{port}"), Timing(attempts=1)) as registries:
        remote = registries.source(Repository(f"{host}:{port}", "team/app"))
        tracemalloc.start()
        try:
            with pytest.raises(RegistryError, match="is not HTTP"):
                await remote.head_manifest("v1")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * MIB
    # The buffers of the sockets between come on top of what is read.
    assert sent < 16 * MIB


@pytest.mark.parametrize("tls", [True, False])
async def test_an_insecure_host_is_asked_both_ways_at_once_and_its_https_counts_where_it_has_that(tls: bool) -> None:
    asked: set[str] = set()

    async def ask(base: URL) -> str:
        asked.add(base.scheme)
        while len(asked) < 2:
            await asyncio.sleep(0)
        if base.scheme == "https":
            # Plain HTTP has long answered, perhaps from somebody else's machine.
            await asyncio.sleep(0.01)
            if not tls:
                raise ConnectionFailed("no answer")
        return f"challenge over {base.scheme}"

    scheme = "https" if tls else "http"
    async with asyncio.timeout(30):
        assert await find_base("r.example", ask) == (URL(f"{scheme}://r.example"), f"challenge over {scheme}")


async def test_the_failure_of_plain_http_counts_only_where_https_is_not_spoken() -> None:
    def asking(secure: Exception, plain: Exception) -> Callable[[URL], Coroutine[Any, Any, None]]:
        async def ask(base: URL) -> None:
            raise secure if base.scheme == "https" else plain

        return ask

    no_tls, silent, other = NoTls("no TLS"), ConnectionFailed("silent"), ConnectionFailed("other")
    for pair, expected in (((no_tls, silent), silent), ((silent, other), silent), ((silent, no_tls), silent)):
        with pytest.raises(ConnectionFailed) as caught:
            await find_base("r.example", asking(*pair))
        assert caught.value is expected
        assert caught.value.__cause__ is None
