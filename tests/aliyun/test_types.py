"""Whether a repository is public, or would be created so, as the OpenAPI tells it; and what a rule makes of that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from replicator.aliyun import Account, Creates, RepositoryTypes, Visibility
from replicator.reference import Repository
from tests.aliyun.conftest import ACR
from tests.aliyun.test_logins import refusal
from tests.standins.acr import AcrStandIn
from tests.standins.faults import Fault
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.aliyun.conftest import Stage

REGISTRY = "registry.cn-beijing.aliyuncs.com"
SERVICES = {
    "Personal": "registry.aliyuncs.com:cn-beijing:26842",
    "Enterprise": "registry.aliyuncs.com:cn-beijing:china:cri-01",
}
NAMESPACES = {"open": True, "closed": True, "manual": False}


@pytest.fixture
async def openapi() -> AsyncIterator[tuple[OpenApiStandIn, Account]]:
    acr = AcrStandIn("127.0.0.1:1", users={}, namespaces=NAMESPACES)
    stand_in = OpenApiStandIn(acr=acr)
    stand_in.namespaces |= {"open": "PUBLIC"}
    stand_in.repositories |= {"closed/open": "PUBLIC", "open/closed": "PRIVATE"}
    async with serve(stand_in.faults) as host:
        yield stand_in, Account("key-id", "key-secret", openapi_endpoint=f"http://{host}")


@pytest.mark.parametrize("edition", SERVICES)
async def test_a_repository_tells_itself_and_a_new_one_by_its_namespace(
    openapi: tuple[OpenApiStandIn, Account], edition: str
) -> None:
    types = RepositoryTypes(REGISTRY, openapi[1])
    expected = {
        "closed/open": True,
        "open/closed": False,
        "open/new": True,
        "closed/new": False,
        # A push would create nothing.
        "manual/new": None,
        "nobodys/new": None,
        "three/segments/long": None,
    }
    assert {name: await types.is_public(name, SERVICES[edition]) for name in expected} == expected


@pytest.mark.parametrize("visibility", Visibility)
async def test_what_the_rules_have_created_is_as_they_say(
    openapi: tuple[OpenApiStandIn, Account], visibility: Visibility
) -> None:
    account = replace(openapi[1], creates=Creates(visibility, namespaces=True))
    types = RepositoryTypes(REGISTRY, account)
    for name in ("manual/new", "nobodys/new"):
        assert await types.is_public(name, None) is (visibility is Visibility.PUBLIC)


@pytest.mark.parametrize("status", [403, 503])
async def test_a_missing_permission_or_an_outage_tells_nothing_and_is_asked_once_a_minute(
    openapi: tuple[OpenApiStandIn, Account], status: int
) -> None:
    stand_in, account = openapi
    types = RepositoryTypes(REGISTRY, account)
    fault = stand_in.faults.add(Fault(refusal(status, "NoPermission"), times=None))
    assert await types.is_public("closed/open", None) is None
    hits = fault.hits
    assert await types.is_public("closed/open", None) is None
    assert fault.hits == hits


async def test_the_instance_is_known_from_the_challenge_before_anything_was_copied(stage: Stage) -> None:
    stage.openapi.namespaces["cache"] = "PUBLIC"
    access = replace(stage.access(), types=RepositoryTypes(ACR, stage.account))
    async with stage.registries(access) as registries:
        assert await registries.is_public(Repository(ACR, "cache/new")) is True
        assert await registries.is_public(Repository(ACR, "image-syncer/new")) is False
        # What is written without a login is read without one.
        assert await registries.is_public(stage.source.reference("v1").repository) is True
    assert stage.openapi.actions.count("GetNamespace") == 2
