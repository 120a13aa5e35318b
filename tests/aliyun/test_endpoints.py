"""ACR's editions and regions, read from its hosts and challenges and from nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.aliyun.acr import AcrEndpoint, Edition, Network, Service, endpoint_of, is_acr, service_of

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
