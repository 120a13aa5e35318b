"""Harbor's token service: reached at an inner address, and named wrongly by a Harbor behind a proxy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from replicator.reference import Repository
from replicator.registry import Access
from replicator.registry.connection import Request
from replicator.registry.errors import LoginRefused, ProtocolViolated, RegistryError, WrongAddress
from tests.registry.conftest import client
from tests.standins.certificates import harbors_recipe
from tests.standins.faults import Fault, Headers
from tests.standins.harbor import HarborStandIn
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.registry.conftest import Server

PUBLIC = "harbor.example.com"
IMAGE = image(1)


@pytest.fixture
async def behind(registry: Server) -> AsyncIterator[HarborStandIn]:
    """A Harbor whose external URL is https://harbor.example.com, reached by plain HTTP at an inner address."""
    await push(registry.host, "team/app", "v1", IMAGE)
    projects = {"team": False, "open": True}
    async with HarborStandIn(registry.host, users=dict([HARBOR_ROBOT]), projects=projects, name=PUBLIC) as harbor:
        yield harbor


def realm(value: str) -> Fault:
    """Have the challenges name this realm."""

    def changed(old: str) -> str:
        return re.sub(r'realm="[^"]*/service/token"', f'realm="{value}"', old)

    return Fault(Headers({"WWW-Authenticate": changed}), path="/v2/", times=None)


async def digest_of_tag(access: Access, host: str = PUBLIC, times: int = 1) -> str:
    async with client({host: access}) as registries:
        for name in ["team/app", "team/other", "team/third"][:times]:
            found = await registries.source(Repository(host, name)).head_manifest("v1")
            digest = found.digest if found is not None else "none"
    return digest if times == 1 else ""


async def test_a_realm_that_names_the_endpoint_with_the_public_scheme_is_asked_at_the_endpoint(
    behind: HarborStandIn,
) -> None:
    """As at http://harbor-core.harbor.svc, whose realm is https://harbor-core.harbor.svc."""
    access = Access(*HARBOR_ROBOT, endpoint=behind.url)
    assert await digest_of_tag(access) == IMAGE.digest
    assert behind.faults.log.count("GET", "^/service/token$") == 1
    assert behind.leaks == []


async def test_a_token_service_that_is_routed_by_the_public_name_is_asked_with_it_and_that_is_remembered(
    behind: HarborStandIn,
) -> None:
    behind.token_hosts = {PUBLIC}
    await digest_of_tag(Access(*HARBOR_ROBOT, endpoint=behind.url), times=3)
    asked = [entry.headers["Host"] for entry in behind.faults.log.select("GET", "^/service/token$")]
    assert asked == [behind.host, PUBLIC, PUBLIC, PUBLIC]


async def test_a_token_service_that_is_routed_by_its_inner_name_is_not_asked_by_the_public_one(
    behind: HarborStandIn,
) -> None:
    behind.token_hosts = {behind.host}
    await digest_of_tag(Access(*HARBOR_ROBOT, endpoint=behind.url), times=3)
    asked = {entry.headers["Host"] for entry in behind.faults.log.select("GET", "^/service/token$")}
    assert asked == {behind.host}


async def test_only_a_harbor_gets_the_public_name_as_host(behind: HarborStandIn) -> None:
    behind.token_hosts = {PUBLIC}
    other = Fault(
        Headers({"WWW-Authenticate": lambda old: old.replace("harbor-registry", "other")}), path="/v2/", times=None
    )
    behind.faults.add(other)
    behind.faults.add(realm(f"{behind.url}/service/token"))
    with pytest.raises(RegistryError):
        await digest_of_tag(Access(*HARBOR_ROBOT, endpoint=behind.url))
    assert PUBLIC not in {entry.headers["Host"] for entry in behind.faults.log.entries}


@pytest.mark.parametrize("named", ["http://harbor.example.com", "https://harbor.example.com:8443"])
async def test_a_public_name_with_another_scheme_or_port_is_asked_at_the_endpoint(
    behind: HarborStandIn, named: str
) -> None:
    behind.faults.add(realm(f"{named}/service/token"))
    assert await digest_of_tag(Access(*HARBOR_ROBOT, endpoint=behind.url)) == IMAGE.digest


@pytest.mark.parametrize(
    "named",
    ["http://HOST/service/token", "https://127.0.0.1:9/service/token", "http://harbor-core.harbor.svc/service/token"],
    ids=["another scheme", "another port", "a name inside"],
)
async def test_a_realm_that_harbor_names_wrongly_is_said_with_its_cure(
    registry: Server, tmp_path: Path, named: str
) -> None:
    tls = harbors_recipe(tmp_path)
    users = dict([HARBOR_ROBOT])
    async with HarborStandIn(registry.host, users=users, projects={"team": False}, tls=tls) as harbor:
        host = f"localhost:{harbor.host.rpartition(':')[2]}"
        harbor.faults.add(realm(named.replace("HOST", host)))
        with pytest.raises(RegistryError) as caught:
            await digest_of_tag(Access(*HARBOR_ROBOT, ca_file=tmp_path / "ca.pem"), host)
    assert re.search(
        rf"Harbor's challenge names its token service \S+, and it is at https://{host}: .*external_url.*X-Forwarded",
        str(caught.value),
    )
    assert isinstance(caught.value, WrongAddress | ProtocolViolated), "it is not waited for like a host that is away"
    assert harbor.leaks == []


async def test_a_refused_login_is_not_put_down_to_the_realm(behind: HarborStandIn) -> None:
    """Harbor answers 401 where a wrong login asks for nothing."""
    async with client({PUBLIC: Access("robot$wrong", "wrong", endpoint=behind.url)}) as registries:
        transport = registries.transport(Repository(PUBLIC, "team/app"))
        with pytest.raises(LoginRefused) as caught:
            await transport.call(Request("GET", await transport.url("/v2/")), expect={200})
    assert "external_url" not in str(caught.value)
    assert behind.faults.log.count("GET", "^/service/token$") == 1
