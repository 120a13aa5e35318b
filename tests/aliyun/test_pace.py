"""Requests to the OpenAPI stay below its rate limit, over the whole process, and no wait is unbounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from replicator.aliyun import Account, Creates, MissingRepositories, TemporaryLogins, Visibility
from replicator.aliyun.openapi import OPENAPI, RateLimiter
from replicator.registry.errors import TooManyRequests
from tests.aliyun.test_logins import PERSONAL, REGISTRY
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from replicator.registry.credentials import Login


class Clock:
    """The clock and the sleep of `replicator.aliyun.openapi`: a sleep is recorded, and takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept_until: list[float] = []
        monkeypatch.setattr("replicator.aliyun.openapi.monotonic", lambda: self.now)
        monkeypatch.setattr("replicator.aliyun.openapi.asyncio", self)

    async def sleep(self, seconds: float) -> None:
        self.slept_until.append(self.now + seconds)


async def test_no_second_has_more_requests_than_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    limiter = RateLimiter(10, max_wait=100)
    for number in range(100):
        clock.now += 0.03 if number % 7 else 0.5
        assert await limiter.acquire() is None
    times = clock.slept_until
    assert times == sorted(times)
    for start in times:
        assert len([moment for moment in times if start <= moment < start + 0.999]) <= 10


async def test_a_request_that_would_wait_too_long_is_refused_at_once_and_takes_no_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    limiter = RateLimiter(1, max_wait=2)
    assert [await limiter.acquire() for _ in range(3)] == [None, None, None]
    for _ in range(1000):
        assert await limiter.acquire() == pytest.approx(3)
    clock.now += 1
    assert await limiter.acquire() is None


def test_the_rate_limit_is_below_the_documented_one() -> None:
    assert 1 / OPENAPI._interval < 15


async def test_logins_and_repositories_share_one_limiter(monkeypatch: pytest.MonkeyPatch) -> None:
    acquired: list[None] = []
    real = OPENAPI.acquire

    async def acquire() -> float | None:
        acquired.append(None)
        return await real()

    monkeypatch.setattr(OPENAPI, "acquire", acquire)
    stand_in = OpenApiStandIn()
    stand_in.namespaces = {"cache": "PRIVATE"}
    async with serve(stand_in.faults) as host:
        account = Account("key-id", "key-secret", openapi_endpoint=f"http://{host}")
        missing = MissingRepositories(REGISTRY, account, Creates(Visibility.PRIVATE))

        async def login() -> Login:
            return await TemporaryLogins(REGISTRY, account).login(PERSONAL)

        await asyncio.gather(*(login() for _ in range(3)), *(missing.create(f"cache/{n}", PERSONAL) for n in "abc"))
    assert len(acquired) == len(stand_in.actions) == 6


async def test_too_many_waiting_requests_are_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def acquire() -> float | None:
        return 25.0

    monkeypatch.setattr(OPENAPI, "acquire", acquire)
    with pytest.raises(TooManyRequests) as caught:
        await TemporaryLogins(REGISTRY, Account("key-id", "key-secret"), deadline=5).login(PERSONAL)
    assert caught.value.retry_after == 25
