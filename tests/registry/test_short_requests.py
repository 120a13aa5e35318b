"""A short request prepares nothing that only a failure, a limit or a full host needs."""

import asyncio

import pytest

from replicator.registry.errors import NotFound, request_context
from replicator.registry.limits import HostLimits
from replicator.registry.places import Budget
from replicator.registry.rate import Rate


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
