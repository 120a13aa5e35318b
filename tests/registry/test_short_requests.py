"""A short request prepares nothing that only a failure, a limit or a full host needs."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from replicator.reference import Repository
from replicator.registry.connection import Request
from replicator.registry.errors import NotFound, request_context
from replicator.registry.limits import HostLimits
from replicator.registry.places import Budget
from replicator.registry.rate import Rate
from tests.registry.conftest import client, served

if TYPE_CHECKING:
    from collections.abc import Callable

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
