"""Logins that are requested on demand, and identity tokens."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, RegistryError, Request
from replicator.registry.credentials import IDENTITY_TOKEN, Login
from replicator.registry.errors import LoginMissing, LoginRefused, LoginUnavailable, Unauthorized
from tests.registry.conftest import Server, client, served
from tests.registry.guard import PASSWORD, USER, Guard, only_basic
from tests.standins.proxy import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.registry import Registries, RemoteRepository


class Helper:
    """A source of logins: returns or raises each of its answers in turn, the last one for good."""

    def __init__(self, *answers: tuple[str, str] | RegistryError) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def login(self, _: str | None) -> Login:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RegistryError):
            raise answer
        await asyncio.sleep(0)
        return Login(*answer)

    def refused(self, _: Login) -> bool:
        return False


class Clock:
    """The monotonic clock of `replicator.registry.credentials`, moved only by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("replicator.registry.credentials.time", clock)
    return clock


@asynccontextmanager
async def basic_only(registry: Server, access: Access) -> AsyncIterator[tuple[Registries, Repository]]:
    async with (
        Upstream(registry.host) as upstream,
        served(partial(only_basic, handler=upstream.forward)) as front,
        client(replace(access, endpoint=f"http://{front.host}")) as registries,
    ):
        yield registries, Repository(front.host, "team/app")


@asynccontextmanager
async def guarded(registry: Server, helper: Helper) -> AsyncIterator[tuple[RemoteRepository, Guard, Server]]:
    async with Upstream(registry.host) as upstream:
        guard = Guard(upstream.forward)
        async with served(guard) as front, served(guard.token) as tokens:
            guard.realm = f"http://{tokens.host}/token"
            async with client(Access(endpoint=f"http://{front.host}", logins=helper)) as registries:
                yield registries.source(Repository(front.host, "team/app")), guard, tokens


async def test_a_login_is_asked_for_once_however_many_requests_need_it(registry: Server) -> None:
    helper = Helper((USER, PASSWORD))
    async with guarded(registry, helper) as (repository, guard, _):
        assert helper.asked == 0
        await asyncio.gather(*(repository.head_manifest(f"v{number}") for number in range(20)))
        guard.revoke()
        await repository.head_manifest("v1")
        assert len(guard.issued) == 2
    assert helper.asked == 1


async def test_a_login_is_asked_for_again_after_a_minute(registry: Server, clock: Clock) -> None:
    helper = Helper((USER, PASSWORD))
    async with guarded(registry, helper) as (repository, guard, _):
        await repository.head_manifest("v1")
        clock.now += 61
        guard.revoke()
        await repository.head_manifest("v1")
    assert helper.asked == 2


async def test_a_login_that_is_refused_later_is_asked_for_again_at_once(registry: Server, clock: Clock) -> None:
    helper = Helper((USER, "ended"), (USER, PASSWORD))
    async with guarded(registry, helper) as (repository, guard, tokens):
        guard.anonymous = True
        await repository.head_manifest("v1")
        guard.anonymous = False
        guard.revoke()
        clock.now += 10
        assert await repository.head_manifest("v1") is None
        assert tokens.faults.log.count(status=401) == 1
    assert helper.asked == 2


async def test_a_wrong_login_is_not_asked_for_without_end(registry: Server) -> None:
    helper = Helper((USER, "wrong"))
    async with guarded(registry, helper) as (repository, _, tokens):
        for _ in range(5):
            with pytest.raises(LoginRefused):
                await repository.head_manifest("v1")
        assert len(tokens.faults.log) == 1
    assert helper.asked == 1


async def test_http_basic_is_renewed_after_it_was_refused(registry: Server, clock: Clock) -> None:
    helper = Helper((USER, PASSWORD), (USER, "wrong"), (USER, PASSWORD))
    async with basic_only(registry, Access(logins=helper)) as (registries, place):
        repository = registries.source(place)
        assert await repository.head_manifest("v1") is None
        clock.now += 61
        with pytest.raises(Unauthorized):
            await repository.head_manifest("v1")
        clock.now += 10
        assert await repository.head_manifest("v1") is None
    assert helper.asked == 3


async def test_a_rest_api_beside_the_registry_gets_a_renewed_login_too(registry: Server, clock: Clock) -> None:
    helper = Helper((USER, "ended"), (USER, PASSWORD))
    async with basic_only(registry, Access(logins=helper)) as (registries, place):
        transport = registries.transport(place)
        url = await transport.url("/v2/")
        with pytest.raises(Unauthorized):
            await transport.call(Request("GET", url, basic=True), expect=(200,))
        clock.now += 10
        assert (await transport.call(Request("GET", url, basic=True), expect=(200,))).status == 200
    assert helper.asked == 2


@pytest.mark.parametrize("kind", [LoginUnavailable, LoginMissing])
async def test_a_source_of_logins_that_fails_is_not_asked_for_a_while(
    registry: Server, clock: Clock, kind: type[LoginUnavailable]
) -> None:
    helper = Helper(kind("it is broken").at("h.example.com", "helper get"), (USER, PASSWORD))
    async with guarded(registry, helper) as (repository, _, tokens):
        for _ in range(3):
            with pytest.raises(kind, match="it is broken") as caught:
                await repository.head_manifest("v1")
            assert caught.value.error_class is kind.error_class
        assert (helper.asked, len(tokens.faults.log)) == (1, 0)
        clock.now += 31
        assert await repository.head_manifest("v1") is None
    assert LoginMissing.error_class is ErrorClass.CREDENTIALS


async def _oauth(request: web.BaseRequest, seen: list[dict[str, list[str]]], guard: Guard) -> web.StreamResponse:
    if request.method != "POST":
        return web.Response(status=405)
    seen.append(parse_qs((await request.read()).decode()))
    assert "Authorization" not in request.headers
    assert not request.query_string
    guard.valid["from-refresh"] = ""
    return web.json_response({"access_token": "from-refresh", "expires_in": 300})


async def test_an_identity_token_is_posted_to_the_token_endpoint(registry: Server) -> None:
    seen: list[dict[str, list[str]]] = []
    async with Upstream(registry.host) as upstream:
        guard = Guard(upstream.forward)
        async with served(guard) as front, served(partial(_oauth, seen=seen, guard=guard)) as tokens:
            guard.realm = f"http://{tokens.host}/token"
            access = Access(IDENTITY_TOKEN, "refresh me &=", endpoint=f"http://{front.host}")
            async with client(access) as registries:
                repository = registries.destination(Repository(front.host, "team/app"))
                assert await repository.head_manifest("v1") is None
    (form,) = seen
    assert form == {
        "grant_type": ["refresh_token"],
        "client_id": ["replicator"],
        "refresh_token": ["refresh me &="],
        "scope": ["repository:team/app:pull,push"],
        "service": ["registry, of many"],
    }


async def test_an_identity_token_where_none_is_understood_is_a_clear_error(registry: Server) -> None:
    async with Upstream(registry.host) as upstream:
        guard = Guard(upstream.forward)

        async def only_get(request: web.BaseRequest) -> web.StreamResponse:
            return await guard.token(request) if request.method == "GET" else web.Response(status=405)

        async with served(guard) as front, served(only_get) as tokens:
            guard.realm = f"http://{tokens.host}/token"
            async with client(Access(IDENTITY_TOKEN, "secret-token", endpoint=f"http://{front.host}")) as registries:
                with pytest.raises(LoginRefused, match="the identity token was refused: 405") as caught:
                    await registries.source(Repository(front.host, "team/app")).head_manifest("v1")
        assert "secret-token" not in str(caught.value)
    async with basic_only(registry, Access(IDENTITY_TOKEN, "secret-token")) as (registries, place):
        with pytest.raises(LoginRefused, match="not a password for HTTP Basic"):
            await registries.source(place).head_manifest("v1")
