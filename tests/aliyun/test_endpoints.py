"""ACR's editions and regions, read from its hosts and challenges and from nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.aliyun.acr import (
    EDITIONS,
    AcrEndpoint,
    Edition,
    Editions,
    KnownEdition,
    Network,
    Service,
    edition_of,
    endpoint_of,
    is_acr,
    service_of,
    with_edition,
)
from replicator.errors import ErrorClass
from replicator.replication.transfer import CopyFailed
from tests.copy.mounting import SharedTexts

REGION = st.from_regex(r"[a-z]{2}-[a-z]{3,12}(-[0-9])?", fullmatch=True)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
PORT = st.sampled_from(["", ":443"])
PERSONAL, ENTERPRISE = Edition.PERSONAL, Edition.ENTERPRISE


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("registry.cn-beijing.aliyuncs.com", AcrEndpoint(PERSONAL, "cn-beijing")),
        ("registry-vpc.cn-beijing.aliyuncs.com", AcrEndpoint(PERSONAL, "cn-beijing", Network.VPC)),
        ("registry-internal.cn-hangzhou.aliyuncs.com", AcrEndpoint(PERSONAL, "cn-hangzhou", Network.INTERNAL)),
        ("registry-intl.ap-southeast-1.aliyuncs.com", AcrEndpoint(PERSONAL, "ap-southeast-1", Network.INTERNATIONAL)),
        (
            "crpi-a1b2c3.cn-beijing.personal.cr.aliyuncs.com",
            AcrEndpoint(PERSONAL, "cn-beijing", Network.PUBLIC, "crpi-a1b2c3"),
        ),
        (
            "crpi-a1b2c3-vpc.cn-beijing.personal.cr.aliyuncs.com",
            AcrEndpoint(PERSONAL, "cn-beijing", Network.VPC, "crpi-a1b2c3"),
        ),
        ("corp-registry.cn-shanghai.cr.aliyuncs.com", AcrEndpoint(ENTERPRISE, "cn-shanghai", Network.PUBLIC, "corp")),
        ("a-b-registry-vpc.cn-shanghai.cr.aliyuncs.com", AcrEndpoint(ENTERPRISE, "cn-shanghai", Network.VPC, "a-b")),
        ("Registry.CN-Beijing.aliyuncs.com:443", AcrEndpoint(PERSONAL, "cn-beijing")),
    ],
)
def test_each_kind_of_host_has_an_edition_a_region_and_a_network(host: str, endpoint: AcrEndpoint) -> None:
    assert endpoint_of(host) == endpoint
    assert is_acr(host)


@pytest.mark.parametrize(
    "host",
    [
        "registry.example.com",
        "aliyuncs.com",
        "bucket.oss-cn-beijing.aliyuncs.com",
        "registry.cn-beijing.aliyuncs.com.example.com",
        "registry.cn-beijing.aliyuncs.com\n",
        "registry-registry.aliyuncs.com",
        "",
    ],
)
def test_other_hosts_are_not_read(host: str) -> None:
    assert endpoint_of(host) is None


@given(LABEL, REGION, st.sampled_from(["", "-vpc"]), PORT)
def test_the_name_of_an_enterprise_instance_is_read_from_its_host(
    name: str, region: str, network: str, port: str
) -> None:
    found = endpoint_of(f"{name}-registry{network}.{region}.cr.aliyuncs.com{port}")
    assert found == AcrEndpoint(ENTERPRISE, region, Network.VPC if network else Network.PUBLIC, name)


@given(REGION, st.from_regex(r"cri-[a-z0-9]{16}", fullmatch=True))
def test_region_and_instance_are_read_from_a_challenge(region: str, instance_id: str) -> None:
    assert service_of(f"registry.aliyuncs.com:{region}:china:{instance_id}") == Service(ENTERPRISE, region, instance_id)
    assert service_of(f"registry.aliyuncs.com:{region}:26842") == Service(PERSONAL, region)


@pytest.mark.parametrize(
    "service",
    [
        "",
        "harbor-registry",
        "registry.aliyuncs.com",
        "registry.aliyuncs.com:evil.example.com/:26842",
        "registry.aliyuncs.com:\u017f:1",
        "x" * 100_000,
    ],
)
def test_a_challenge_of_another_registry_is_not_read(service: str) -> None:
    assert service_of(service) is None


@given(st.text() | st.from_regex(r"[a-z.:-]*aliyuncs\.com[a-z.:-]*"))
def test_whatever_a_host_or_a_challenge_says_a_region_is_a_single_label(text: str) -> None:
    for found in (endpoint_of(text), service_of(text)):
        if found is not None:
            assert found.region.isascii()
            assert set(found.region) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    if endpoint_of(text) is not None:
        assert is_acr(text)


def test_a_host_of_any_name_is_acr_from_its_first_challenge_on() -> None:
    assert (is_acr("hub.acme.com"), edition_of("hub.acme.com")) == (False, None)
    EDITIONS.learn("hub.acme.com", "harbor-registry")
    EDITIONS.learn("hub.acme.com", "")
    assert not is_acr("hub.acme.com")
    EDITIONS.learn("hub.acme.com", "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef")
    assert is_acr("Hub.acme.com:443")
    assert not is_acr("hub.acme.com:8443"), "another port may be another registry"
    assert edition_of("hub.acme.com") is ENTERPRISE
    told = "ACR, Enterprise Edition, recognized by its token challenge for cri-0123456789abcdef"
    assert str(EDITIONS.find("hub.acme.com")) == told


def test_a_challenge_wins_over_a_name_and_tells_what_no_name_does() -> None:
    newer, personal = "registry.example.cr.aliyuncs.com", "registry.cn-beijing.aliyuncs.com"
    assert (is_acr(newer), edition_of(newer), edition_of(personal)) == (True, None, PERSONAL)
    assert str(EDITIONS.find(newer)) == "ACR, recognized by its host name"
    EDITIONS.learn(newer, "registry.aliyuncs.com:cn-beijing:26842")
    EDITIONS.learn(personal, "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef")
    assert (edition_of(newer), edition_of(personal)) == (PERSONAL, ENTERPRISE)


def test_so_many_hosts_are_remembered() -> None:
    for number in range(1001):
        EDITIONS.learn(f"r{number}.example.com", "registry.aliyuncs.com:cn-beijing:26842")
    assert not is_acr("r0.example.com")
    assert is_acr("r1.example.com")


async def test_a_later_process_knows_what_an_earlier_one_was_told() -> None:
    store, service = SharedTexts(), "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef"
    earlier, later, last = Editions(), Editions(), Editions()
    async with earlier.shared(store, ["hub.acme.com"]):
        earlier.learn("Hub.acme.com:443", service)
    async with later.shared(store, ["hub.acme.com", "harbor.acme.com"]):
        assert later.find("hub.acme.com") == KnownEdition(ENTERPRISE, "its token challenge for cri-0123456789abcdef")
        assert later.find("harbor.acme.com") is None
        later.learn("hub.acme.com", "harbor-registry")
        assert later.find("hub.acme.com") is None, "another registry has taken over the name"
    later.learn("harbor.acme.com", service)
    async with last.shared(store, ["hub.acme.com", "harbor.acme.com"]):
        assert last.find("hub.acme.com") is last.find("harbor.acme.com") is None


async def test_a_memory_that_holds_anything_else_says_nothing() -> None:
    store, editions = SharedTexts(), Editions()
    store.texts["edition hub.acme.com"] = "registry.aliyuncs.com:cn-beijing:26842" + "\n" + "x" * 1000
    async with editions.shared(store, ["hub.acme.com"]):
        assert editions.find("hub.acme.com") is None


@pytest.mark.parametrize(
    ("host", "service", "error_class", "asked"),
    [
        ("hub.acme.com", "registry.aliyuncs.com:cn-beijing:26842", ErrorClass.PERMANENT, [False, True]),
        ("hub.acme.com", "registry.aliyuncs.com:cn-beijing:26842", ErrorClass.TRANSIENT, [False]),
        ("hub.acme.com", "registry.aliyuncs.com:cn-beijing:26842", ErrorClass.NOT_YET, [False]),
        ("hub.acme.com", "harbor-registry", ErrorClass.PERMANENT, [False]),
        ("registry.cn-beijing.aliyuncs.com", "registry.aliyuncs.com:cn-beijing:26842", ErrorClass.PERMANENT, [True]),
    ],
)
async def test_an_attempt_is_repeated_if_the_first_one_found_out_what_changes_it(
    host: str, service: str, error_class: ErrorClass, asked: list[bool]
) -> None:
    made: list[bool] = []

    async def attempt(acr: bool) -> None:
        made.append(acr)
        EDITIONS.learn(host, service)
        raise CopyFailed("refused", error_class)

    with pytest.raises(CopyFailed):
        await with_edition(lambda: is_acr(host), attempt)
    assert made == asked
