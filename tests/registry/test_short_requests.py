"""A short request prepares nothing that only a failure, a limit or a full host needs."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from replicator.reference import Repository
from replicator.registry.connection import Request
from replicator.registry.connector import ShortAnswer, ShortRequests
from replicator.registry.errors import NotFound, request_context
from replicator.registry.limits import HostLimits
from replicator.registry.places import Budget
from replicator.registry.rate import Rate
from tests.registry.conftest import client, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

DIGEST = "sha256:" + "a" * 64


class _Described:
    """A request that counts how often it is described."""

    def __init__(self) -> None:
        self.times = 0

    def __str__(self) -> str:
        self.times += 1
        return "GET /v2/"


def test_only_a_failed_request_is_described() -> None:
    request = _Described()
    with request_context("h.example.com", request):
        pass
    assert request.times == 0
    with pytest.raises(NotFound) as caught, request_context("h.example.com", request):
        raise NotFound("no such manifest")
    assert request.times == 1
    assert caught.value.what == "h.example.com: GET /v2/"


@pytest.mark.parametrize("limits", [Budget(2), HostLimits(2)])
async def test_a_request_that_finds_a_place_stands_in_no_line(limits: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "create_future", lambda: pytest.fail("there is nothing to wait for"))
    async with limits.slot(), limits.slot(1000):
        assert limits.waiting(bulk=False) == 0


async def test_a_host_without_a_limit_keeps_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rate, "_refill", lambda _: pytest.fail("there is nothing to account for"))
    await Rate().passes(1, bulk=False)


async def test_an_answered_head_is_neither_described_nor_copied_and_has_one_limit_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: Counter[str] = Counter()

    def counting(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def count(*args: object, **options: object) -> object:
            made[name] += sys._getframe(1).f_globals["__name__"].startswith("replicator")
            return real(*args, **options)

        return count

    head = {"Docker-Content-Digest": DIGEST, "Content-Type": "application/vnd.oci.image.manifest.v1+json"}

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers=head)

    async with served(answer) as server, client() as registries:
        remote = registries.destination(Repository(server.host, "team/app"))
        assert await remote.head_manifest("1") is not None
        monkeypatch.setattr(Request, "__str__", counting("description", Request.__str__))
        monkeypatch.setattr(Request, "__init__", counting("request", Request.__init__))
        monkeypatch.setattr(aiohttp, "ClientTimeout", counting("timeout", aiohttp.ClientTimeout))
        monkeypatch.setattr(asyncio, "timeout", counting("limit", asyncio.timeout))
        assert await remote.head_manifest("1") is not None
        monkeypatch.undo()
    assert +made == {"request": 1, "limit": 1}


@asynccontextmanager
async def listening(*answers: bytes) -> AsyncIterator[tuple[URL, list[list[bytes]]]]:
    """Give these answers on each connection and then close it; yields the heads that came on each."""
    connections: list[list[bytes]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads: list[bytes] = []
        connections.append(heads)
        try:
            for each in (*answers, b""):
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(each)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield URL(f"http://{host}:{port}"), connections


@asynccontextmanager
async def short_requests(
    origin: URL,
) -> AsyncIterator[tuple[aiohttp.ClientSession, Callable[..., Awaitable[ShortAnswer]]]]:
    """Yield a session, and what sends a short request on its connections."""
    async with aiohttp.ClientSession(headers={"User-Agent": "us"}, auto_decompress=False) as session:
        requests = ShortRequests(session, origin, tls=True)

        async def send(
            method: str, path: str = "/", *, body: bytes | None = None, once: bool = False, **headers: str
        ) -> ShortAnswer:
            url, timeout = URL(f"{origin}{path}", encoded=True), aiohttp.ClientTimeout(sock_connect=5, sock_read=5)
            answer = await requests.send(method, url, headers, timeout, body=body, once=once)
            answer.release()
            return answer

        yield session, send


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


async def test_a_short_request_goes_over_the_connections_of_the_session_with_its_headers() -> None:
    async with listening(OK, EARLY + OK, OK) as (origin, connections), short_requests(origin) as (session, send):
        async with session.get(origin) as answer:
            assert answer.status == 200
        assert (await send("HEAD", "/v2/a%2Fb?n=1", Accept="this")).status == 200
        assert (await send("POST")).headers["Content-Length"] == "0"
    ((_, head, post),) = connections
    host = f"Host: {origin.authority}\r\n"
    assert head.decode() == f"HEAD /v2/a%2Fb?n=1 HTTP/1.1\r\n{host}Accept: this\r\nUser-Agent: us\r\n\r\n"
    assert post.decode() == f"POST / HTTP/1.1\r\n{host}Accept: */*\r\nUser-Agent: us\r\nContent-Length: 0\r\n\r\n"


async def test_a_closed_connection_costs_another_try_but_a_post_is_not_sent_twice() -> None:
    async with listening(OK) as (origin, connections), short_requests(origin) as (_, send):
        await send("HEAD")
        await send("HEAD")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send("POST")
    # The server closed the first connection at the second request, and the other one at the POST.
    assert [[head.split()[0] for head in heads] for heads in connections] == [[b"HEAD", b"HEAD"], [b"HEAD", b"POST"]]


async def test_a_short_body_goes_with_its_head_and_not_twice_if_once_is_asked_for() -> None:
    async with listening(OK) as (origin, connections), short_requests(origin) as (_, send):
        await send("PUT", body=b"HEAD / HTTP/1.1\r\n\r\n", **{"Content-Type": "a/b"})
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send("PUT", body=b"{}", once=True)
    ((put, body),) = connections
    assert b"\r\nContent-Type: a/b\r\nContent-Length: 19\r\n\r\n" in put
    assert body == b"HEAD / HTTP/1.1\r\n\r\n"


async def test_a_connection_that_never_answers_is_tried_twice() -> None:
    async with listening() as (origin, connections), short_requests(origin) as (_, send):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send("HEAD")
    assert len(connections) == 2


async def test_a_body_that_is_not_read_to_its_end_closes_the_connection() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    async with listening(whole[:-1], OK) as (origin, connections), short_requests(origin) as (_, send):
        await send("GET")
        await send("GET")
    assert len(connections) == 2


async def test_what_is_no_http_is_the_error_of_a_session() -> None:
    async with listening(b"SSH-2.0-OpenSSH\r\n\r\n") as (origin, _), short_requests(origin) as (_, send):
        with pytest.raises(aiohttp.ClientResponseError):
            await send("GET")


@pytest.mark.parametrize(("path", "token"), [("/a\x01b", "t"), ("/", "t\r\nX: y"), ("/", "t\0")])
async def test_no_header_is_smuggled_into_a_short_request(path: str, token: str) -> None:
    async with listening(OK) as (origin, connections), short_requests(origin) as (_, send):
        with pytest.raises(ValueError, match="control character"):
            await send("GET", path, Authorization=token)
    assert not connections
