"""Repositories created through the real library: in both editions, once, and never changed."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from replicator.aliyun import Account, Creates, MissingRepositories, Visibility
from replicator.aliyun.operations import AccountRefused, NamespaceMissing
from replicator.errors import ErrorClass
from replicator.reference import Reference, Repository
from replicator.registry.errors import ConnectionFailed, Denied, Refused, RegistryError, ServerFailed, TooManyRequests
from replicator.replication.advice import explained
from tests.aliyun.test_logins import ENTERPRISE, PERSONAL, REGISTRY, refusal
from tests.standins.faults import Answer, Delay, Fault, Hold
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PRIVATE = Creates(Visibility.PRIVATE)
EDITIONS = pytest.mark.parametrize("service", [PERSONAL, ENTERPRISE], ids=["personal", "enterprise"])


class Place:
    """An OpenAPI with the namespace ``cache``, and an account that creates repositories there."""

    def __init__(self, stand_in: OpenApiStandIn, account: Account) -> None:
        self.stand_in = stand_in
        self.account = account

    def missing(self, creates: Creates = PRIVATE, **settings: Any) -> MissingRepositories:
        return MissingRepositories(REGISTRY, self.account, creates, **settings)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    stand_in = OpenApiStandIn()
    stand_in.namespaces = {"cache": "PRIVATE"}
    async with serve(stand_in.faults) as host:
        yield Place(stand_in, Account("key-id", "key-secret", openapi_endpoint=f"http://{host}"))


@EDITIONS
@pytest.mark.parametrize("visibility", Visibility)
async def test_a_repository_gets_the_visibility_that_the_rules_say(
    place: Place, service: str, visibility: Visibility
) -> None:
    assert await place.missing(Creates(visibility)).create("cache/app", service)
    assert place.stand_in.repositories == {"cache/app": visibility.upper()}


@EDITIONS
async def test_a_repository_that_exists_is_no_error_and_left_unchanged(place: Place, service: str) -> None:
    place.stand_in.repositories["cache/app"] = "PUBLIC"
    assert await place.missing().create("cache/app", service)
    assert place.stand_in.repositories == {"cache/app": "PUBLIC"}


@EDITIONS
async def test_a_repository_that_exists_is_found_whatever_the_code_of_the_refusal(place: Place, service: str) -> None:
    place.stand_in.repositories["cache/app"] = "PUBLIC"
    place.stand_in.faults.add(Fault(refusal(400, "NAME_OCCUPIED")))
    assert await place.missing().create("cache/app", service)


@EDITIONS
async def test_a_transient_error_of_the_lookup_decides_nothing(place: Place, service: str) -> None:
    place.stand_in.faults.add(Fault(refusal(400, "NAME_OCCUPIED")))
    place.stand_in.faults.add(Fault(refusal(503, "ServiceUnavailable"), times=None))
    with pytest.raises(ServerFailed) as caught:
        await place.missing().create("cache/app", service)
    assert caught.value.error_class is ErrorClass.TRANSIENT


async def test_a_refusal_with_status_200_is_a_refusal(place: Place) -> None:
    answer = Answer(200, body=b'{"IsSuccess": false, "Code": "WRONG"}')
    place.stand_in.faults.add(Fault(answer, times=None))
    with pytest.raises(Refused, match="WRONG"):
        await place.missing().create("cache/app", ENTERPRISE)


async def test_concurrent_copies_to_a_repository_share_one_request(place: Place) -> None:
    missing = place.missing()
    assert all(await asyncio.gather(*(missing.create("cache/app", PERSONAL) for _ in range(20))))
    assert place.stand_in.actions == ["CreateRepo"]


@EDITIONS
async def test_processes_that_create_at_once_all_succeed(place: Place, service: str) -> None:
    creates = Creates(Visibility.PRIVATE, namespaces=True)
    place.stand_in.faults.add(Fault(Delay(0.1), times=None))
    assert all(await asyncio.gather(*(place.missing(creates).create("new/app", service) for _ in range(4))))
    assert place.stand_in.repositories == {"new/app": "PRIVATE"}


@EDITIONS
async def test_a_namespace_is_created_only_where_the_rules_allow_it(place: Place, service: str) -> None:
    with pytest.raises(NamespaceMissing, match="NAMESPACE_NOT_EXIST") as caught:
        await place.missing().create("new/app", service)
    assert "namespaces: true" in explained(caught.value).do
    assert "new" not in place.stand_in.namespaces
    assert await place.missing(Creates(Visibility.PRIVATE, namespaces=True)).create("new/app", service)
    assert place.stand_in.namespaces["new"] == "PRIVATE"
    assert place.stand_in.repositories == {"new/app": "PRIVATE"}


async def test_a_namespace_of_another_account_is_reported_as_one(place: Place) -> None:
    place.stand_in.others = {"new"}
    with pytest.raises(Refused, match="may belong to another account") as caught:
        await place.missing(Creates(Visibility.PRIVATE, namespaces=True)).create("new/app", PERSONAL)
    assert caught.value.error_class is ErrorClass.PERMANENT


async def test_a_new_namespace_that_is_not_visible_yet_is_a_transient_error(place: Place) -> None:
    place.stand_in.faults.add(Fault(refusal(404, "NAMESPACE_NOT_EXIST"), path="/repos", times=2))
    with pytest.raises(ServerFailed, match="created a moment ago"):
        await place.missing(Creates(Visibility.PRIVATE, namespaces=True)).create("new/app", PERSONAL)


async def test_repositories_pushed_into_a_new_enterprise_namespace_have_the_same_visibility(place: Place) -> None:
    await place.missing(Creates(Visibility.PUBLIC, namespaces=True)).create("new/app", ENTERPRISE)
    assert place.stand_in.namespaces["new"] == "PUBLIC"


@EDITIONS
@pytest.mark.parametrize(
    ("status", "code", "kind", "error_class", "advice"),
    [
        (403, "NoPermission", AccountRefused, ErrorClass.CREDENTIALS, "RAM policy (cr:CreateRepository)"),
        (404, "InvalidAccessKeyId.NotFound", AccountRefused, ErrorClass.CREDENTIALS, "its access key"),
        (404, "USER_NOT_EXIST", AccountRefused, ErrorClass.CREDENTIALS, "never set up Container Registry"),
        (400, "REPO_EXCEED_QUOTA", Denied, ErrorClass.PERMANENT, "300 repositories"),
        (400, "REPO_NAME_INVALID", Refused, ErrorClass.PERMANENT, "REPO_NAME_INVALID"),
    ],
)
async def test_a_refusal_comes_with_advice_and_without_a_secret(
    place: Place, service: str, status: int, code: str, kind: type[RegistryError], error_class: ErrorClass, advice: str
) -> None:
    place.stand_in.faults.add(Fault(refusal(status, code), times=None))
    with pytest.raises(kind, match=code) as caught:
        await place.missing().create("cache/app", service)
    told = str(explained(caught.value, Reference(Repository(REGISTRY, "cache/app"), tag="v1")))
    assert advice in told
    assert "key-secret" not in told
    assert caught.value.error_class is error_class


async def test_the_permission_that_is_missing_for_a_namespace_is_named(place: Place) -> None:
    place.stand_in.faults.add(Fault(refusal(403, "NoPermission"), path="/namespace$", times=None))
    with pytest.raises(AccountRefused) as caught:
        await place.missing(Creates(Visibility.PRIVATE, namespaces=True)).create("new/app", PERSONAL)
    assert "cr:CreateNamespace" in explained(caught.value).do


async def test_a_refusal_is_cached_for_all_tags(place: Place) -> None:
    refused = place.stand_in.faults.add(Fault(refusal(403, "NoPermission"), "PUT", times=None))
    missing = place.missing()
    for _ in range(3):
        with pytest.raises(AccountRefused):
            await missing.create("cache/app", PERSONAL)
    assert refused.hits == 1


async def test_an_unreachable_openapi_is_left_alone_for_a_while(place: Place) -> None:
    held = place.stand_in.faults.add(Fault(Hold(), times=None))
    missing = place.missing(deadline=0.3)
    with pytest.raises(ConnectionFailed, match="did not answer") as caught:
        await missing.create("cache/app", PERSONAL)
    assert caught.value.error_class is ErrorClass.TRANSIENT
    with pytest.raises(ConnectionFailed, match="did not answer"):
        await missing.create("cache/other", PERSONAL)
    assert held.hits == 1


async def test_throttling_is_retried_for_longer_than_a_fault(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    monkeypatch.setattr("replicator.aliyun.openapi._THROTTLED_BASE", 0.02)
    place.stand_in.faults.add(Fault(refusal(400, "Throttling.User"), times=5))
    assert await place.missing().create("cache/app", PERSONAL)
    began = [entry.began for entry in place.stand_in.faults.log][:6]
    for number, (before, after) in enumerate(pairwise(began)):
        assert after - before >= 0.02 * 2**number, "the pauses grow"


async def test_endless_throttling_is_reported_before_the_deadline(place: Place) -> None:
    place.stand_in.faults.add(Fault(refusal(400, "Throttling.User"), times=None))
    with pytest.raises(TooManyRequests, match="Throttling"):
        await place.missing(deadline=2).create("cache/app", PERSONAL)


async def test_a_repository_that_has_existed_for_long_is_no_reason_to_push_again(place: Place) -> None:
    place.stand_in.repositories["cache/app"] = "PRIVATE"
    missing = place.missing(ttl=0)
    assert await missing.create("cache/app", PERSONAL), "another process may just have created it"
    assert not await missing.create("cache/app", PERSONAL)
    del place.stand_in.repositories["cache/app"]
    assert await missing.create("cache/app", PERSONAL)


@pytest.mark.parametrize("name", ["app", "cache/team/app"])
async def test_a_name_that_acr_can_not_hold_is_not_requested(place: Place, name: str) -> None:
    assert not await place.missing().create(name, PERSONAL)
    assert place.stand_in.actions == []
