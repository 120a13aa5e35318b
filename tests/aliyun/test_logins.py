"""Temporary logins through the real library: both editions, caching, renewal, sharing and refusals."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from replicator.aliyun import Account, TemporaryLogins
from replicator.aliyun.operations import AccountIncomplete, AccountRefused
from replicator.errors import ErrorClass
from replicator.registry.errors import ConnectionFailed, RegistryError, TooManyRequests
from replicator.registry.proxies import Proxies
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.forward_proxy import ForwardProxy
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REGISTRY = "registry.cn-beijing.aliyuncs.com"
PERSONAL = "registry.aliyuncs.com:cn-beijing:26842"
ENTERPRISE = "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef"


@pytest.fixture
async def openapi() -> AsyncIterator[tuple[OpenApiStandIn, Account]]:
    stand_in = OpenApiStandIn()
    async with serve(stand_in.faults) as host:
        yield stand_in, Account("key-id", "key-secret", openapi_endpoint=f"http://{host}")


def refusal(status: int, code: str) -> Answer:
    body = b'{"Code": "%s", "Message": "signed with key-secret"}' % code.encode()
    return Answer(status, body=body)


@pytest.mark.parametrize(
    ("service", "asked"),
    [(PERSONAL, ("2016-06-07", "")), (ENTERPRISE, ("2018-12-01", "cri-0123456789abcdef"))],
    ids=["personal", "enterprise"],
)
async def test_the_challenge_selects_the_version_of_the_api(
    openapi: tuple[OpenApiStandIn, Account], service: str, asked: tuple[str, str]
) -> None:
    stand_in, account = openapi
    login = await TemporaryLogins(REGISTRY, account).login(service)
    assert (login.username, login.password) == ("cr_temp_user", "temporary-1")
    assert stand_in.asked == [asked]
    assert "temporary" not in repr(login)
    assert "key-secret" not in repr(account)


async def test_concurrent_callers_share_one_login_while_it_is_valid(openapi: tuple[OpenApiStandIn, Account]) -> None:
    stand_in, account = openapi
    logins = TemporaryLogins(REGISTRY, account)
    assert len(set(await asyncio.gather(*(logins.login(PERSONAL) for _ in range(20))))) == 1
    assert stand_in.given == 1


async def test_a_transient_failure_is_retried(openapi: tuple[OpenApiStandIn, Account]) -> None:
    stand_in, account = openapi
    stand_in.faults.add(Fault(refusal(503, "ServiceUnavailable")))
    assert (await TemporaryLogins(REGISTRY, account).login(PERSONAL)).password == "temporary-1"


@pytest.mark.parametrize(
    ("status", "code", "kind", "error_class"),
    [
        (400, "Throttling.User", TooManyRequests, ErrorClass.TRANSIENT),
        (404, "USER_NOT_EXIST", AccountRefused, ErrorClass.CREDENTIALS),
        (403, "NoPermission", AccountRefused, ErrorClass.CREDENTIALS),
    ],
)
async def test_a_refusal_has_a_class_and_shows_no_secret(
    openapi: tuple[OpenApiStandIn, Account], status: int, code: str, kind: type[RegistryError], error_class: ErrorClass
) -> None:
    stand_in, account = openapi
    stand_in.faults.add(Fault(refusal(status, code), times=None))
    with pytest.raises(kind, match=code) as caught:
        await TemporaryLogins(REGISTRY, account, deadline=2).login(PERSONAL)
    assert caught.value.error_class is error_class
    assert "key-secret" not in str(caught.value)


async def test_a_slow_answer_ends_at_the_deadline(openapi: tuple[OpenApiStandIn, Account]) -> None:
    stand_in, account = openapi
    stand_in.faults.add(Fault(Hold(), times=None))
    with pytest.raises(ConnectionFailed, match="did not answer"):
        await TemporaryLogins(REGISTRY, account, deadline=0.3).login(PERSONAL)


async def test_a_login_is_renewed_before_it_expires_and_kept_if_that_fails(
    openapi: tuple[OpenApiStandIn, Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, account = openapi
    logins = TemporaryLogins(REGISTRY, account, pause=0)
    first = await logins.login(PERSONAL)
    now = time.monotonic
    monkeypatch.setattr("replicator.aliyun.on_demand.time.monotonic", lambda: now() + 3300)
    failing = stand_in.faults.add(Fault(refusal(403, "NoPermission")))
    assert await logins.login(PERSONAL) == first
    assert failing.hits == 1
    assert (await logins.login(PERSONAL)).password == "temporary-2"


async def test_an_expired_login_is_not_used(
    openapi: tuple[OpenApiStandIn, Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, account = openapi
    logins = TemporaryLogins(REGISTRY, account, pause=0)
    await logins.login(PERSONAL)
    now = time.monotonic
    monkeypatch.setattr("replicator.aliyun.on_demand.time.monotonic", lambda: now() + 3700)
    stand_in.faults.add(Fault(refusal(403, "NoPermission"), times=None))
    with pytest.raises(AccountRefused):
        await logins.login(PERSONAL)


async def test_a_login_expires_with_the_key_that_requested_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = OpenApiStandIn(seconds=900)
    async with serve(stand_in.faults) as host:
        logins = TemporaryLogins(REGISTRY, Account("key-id", "key-secret", "sts", openapi_endpoint=f"http://{host}"))
        await logins.login(PERSONAL)
        now = time.monotonic
        monkeypatch.setattr("replicator.aliyun.on_demand.time.monotonic", lambda: now() + 600)
        assert (await logins.login(PERSONAL)).password == "temporary-1"
        monkeypatch.setattr("replicator.aliyun.on_demand.time.monotonic", lambda: now() + 700)
        assert (await logins.login(PERSONAL)).password == "temporary-2"
    assert stand_in.tokens == ["sts", "sts"]


async def test_the_openapi_is_not_asked_if_the_library_can_not_be_kept_from_the_environment(
    openapi: tuple[OpenApiStandIn, Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, account = openapi
    monkeypatch.delattr("darabonba.core.os")
    with pytest.raises(AccountIncomplete, match="darabonba-core can't ignore the environment's proxy variables"):
        await TemporaryLogins(REGISTRY, account).login(PERSONAL)
    assert stand_in.given == 0


async def test_the_openapi_is_reached_by_the_accounts_proxy_alone(
    openapi: tuple[OpenApiStandIn, Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, account = openapi
    behind = account.openapi_endpoint.removeprefix("http://")
    async with ForwardProxy({"openapi.by-proxy.test:80": behind}, login="corp:s3cr:t").running() as proxy:
        named = Proxies.from_environ({"HTTP_PROXY": f"http://corp:s3cr%3At@{proxy.host}"})
        proxied = replace(account, openapi_endpoint="http://openapi.by-proxy.test", proxies=named)
        assert (await TemporaryLogins(REGISTRY, proxied).login(PERSONAL)).password == "temporary-1"
        assert len(proxy.asked) == 1
        # The library would take this one from the environment, and knows no NO_PROXY.
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        assert (await TemporaryLogins(REGISTRY, account).login(PERSONAL)).password == "temporary-2"
        assert len(proxy.asked) == 1
        proxy.login = "corp:another"
        with pytest.raises(RegistryError) as caught:
            await TemporaryLogins(REGISTRY, proxied, deadline=0.5).login(PERSONAL)
    assert "s3cr" not in str(caught.value)
    assert "s3cr" not in repr(proxied)
    assert stand_in.given == 2
