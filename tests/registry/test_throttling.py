"""A host that refuses what is too much, with 429 or 503: everything arrives, and few requests are refused."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.reference import Repository
from replicator.registry import Access, Registries, Timing, limits
from replicator.registry.connection_errors import from_answer
from replicator.registry.limits import HostLimits
from tests.registry.conftest import served

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.registry.errors import RegistryError


class Bucket:
    """A proxy that lets so many requests a second through and refuses the others, as nginx's ``limit_req`` does."""

    def __init__(self, rate: float, status: int) -> None:
        self._gap = 1 / rate
        self._status = status
        self._next = 0.0
        self.refused = 0
        self.taken = 0

    async def __call__(self, _: web.BaseRequest) -> web.StreamResponse:
        now = time.monotonic()
        if now < self._next:
            self.refused += 1
            return web.Response(status=self._status)
        self._next = now + self._gap
        self.taken += 1
        return web.Response(status=404)


async def test_all_requests_get_through_a_proxy_that_limits_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_THROTTLE_DEFAULT", 0.1)
    bucket = Bucket(100, 503)
    async with served(bucket) as server:
        way = Access(endpoint=f"http://{server.host}")
        async with Registries(lambda _: way, timing=Timing(attempts=8)) as registries:
            remote = registries.destination(Repository(server.host, "team/app"))
            found = await asyncio.gather(*(remote.has_blob(f"sha256:{n:064}") for n in range(100)))
    assert found == [False] * 100
    assert bucket.taken == 100
    assert bucket.refused <= 100, "the first burst of 32, and a few in each search for the rate"


def refusal(status: int, retry_after: float | None = None) -> RegistryError:
    return from_answer(status, b"", retry_after=retry_after)


async def test_several_bad_gateways_in_a_row_shrink_the_budget_and_one_does_not() -> None:
    found = HostLimits(16)
    for number in range(3):
        error = refusal(502 if number % 2 else 504)
        assert found.overloaded(error) == (number == 2)
        assert (error.wait is not None) == (number == 2)
    assert found.size == 8


@pytest.mark.parametrize(("status", "cuts_after"), [(429, 1), (503, 3)])
async def test_a_refusal_for_load_asks_for_patience_and_not_for_an_attempt(status: int, cuts_after: int) -> None:
    found = HostLimits(16)
    for number in range(1, cuts_after + 1):
        error = refusal(status)
        assert found.overloaded(error)
        assert error.wait is not None
        assert error.wait.key == ""
        assert found.size == (8 if number == cuts_after else 16)
    assert not found.overloaded(refusal(500))


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_repository_that_fails_among_healthy_ones_slows_nobody(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(limits, "time", _Clock(lambda: now))
    found = HostLimits(16)
    for number in range(1000):
        now += 0.01
        if number % 10:
            found.answered()
        else:
            found.overloaded(refusal(status))
    assert found.size == 16
    assert found._rate is None
    assert found._quiet_until < now


async def test_few_refusals_at_a_low_rate_are_much_and_slow_it_further(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(limits, "time", _Clock(lambda: now))
    found = HostLimits(16)
    for number in range(20):
        now += 2
        if number % 4:
            found.answered()
        else:
            found.overloaded(refusal(503))
    assert found._rate is not None


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_host_that_asks_for_a_pause_gets_it_at_once(status: int) -> None:
    found = HostLimits(16)
    for _ in range(100):
        found.answered()
    error = refusal(status, 30.0)
    assert found.overloaded(error)
    assert error.wait is not None
    assert error.wait.pause == 30
    assert found._quiet_until - time.monotonic() == pytest.approx(30, abs=5)
    assert found.size == (8 if status == 429 else 16), "only a 429 surely means load"


async def test_the_rate_falls_with_refusals_and_ends_after_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(limits, "time", _Clock(lambda: now))
    found = HostLimits(16)
    for _ in range(100):
        found.answered()
    found.throttle(0)
    assert found._rate == pytest.approx(70)
    now += 2
    found.throttle(0)
    assert found._rate == pytest.approx(56)
    for _ in range(200):
        now += 1
        found.answered()
    assert found._rate is None, "a host that has taken a thousand requests a second has no limit worth minding"


async def test_answers_during_a_pause_leave_the_rate_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(limits, "time", _Clock(lambda: now))
    found = HostLimits(16)
    for _ in range(100):
        found.answered()
    found.throttle(10)
    for _ in range(15):
        found.answered()
    assert found._rate == pytest.approx(70)
    now += 10
    found.answered()
    assert found._rate == pytest.approx(70)
    now += 1
    found.answered()
    assert found._rate == pytest.approx(210), "it grows from the end of the pause on"


class _Clock:
    def __init__(self, read: Callable[[], float]) -> None:
        self.monotonic = self.time = read
