from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from replicator.errors import ConfigError
from replicator.networks import Networks, check_reachable, is_internal, plain_address, reach_warning, shown_url

V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


@given(
    st.lists(st.one_of(V4, V6), min_size=1, max_size=5),
    st.sampled_from([",", " ", ", ", "\n", " ,, "]),
    st.one_of(V4, V6),
)
def test_a_single_address_contains_itself_and_no_other(listed: list[object], between: str, other: object) -> None:
    networks = Networks(between.join(map(str, listed)))
    assert all(str(address) in networks for address in listed)
    plain = plain_address(str(other))
    assert (str(other) in networks) == (plain in [plain_address(str(address)) for address in listed])


@given(V4, st.integers(0, 32), V4)
def test_a_network_contains_its_addresses_also_as_an_ipv6_socket_reports_them(
    base: ipaddress.IPv4Address, length: int, address: ipaddress.IPv4Address
) -> None:
    network = ipaddress.ip_network((base, length), strict=False)
    networks = Networks(str(network))
    assert (str(address) in networks) == (f"::ffff:{address}" in networks) == (address in network)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one"),
        (" , ", "at least one"),
        ("10.0.0.0/33", "is not an address or a network"),
        ("harbor.example.com", "is not an address or a network"),
        ("10.0.0.1/8", "write 10.0.0.0/8, or 10.0.0.1 for that address only"),
        ("192.0.2.7 10.0.0", "'10.0.0' is not an address"),
    ],
)
def test_an_invalid_list_of_networks_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Networks(text)


@given(st.text(max_size=30))
def test_any_other_text_is_in_no_network(text: str) -> None:
    assert text not in Networks("192.0.2.7")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1%eth0",
        "100.100.100.200",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "64:ff9b:1:7f00:0:100::",
        "64:ff9b:1:7f:0:1::",
        "64:ff9b:1:0:7f:0:100:0",
        "::ffff:0:0",
        "2001:0:7f00:1::808:808",
        "2001:0:808:808::80ff:fffe",
        "::127.0.0.1",
        "2002:7f00:1::",
        "0.0.0.0",
        "::",
        "224.0.0.1",
    ],
)
def test_this_machine_its_link_and_metadata_services_are_internal(address: str) -> None:
    assert is_internal(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.0.2.7",
        "100.100.100.201",
        "2001:db8::1",
        "fd00::1",
        "64:ff9b::808:808",
        "64:ff9b:1::808:808",
        "2002:808:808::",
        "2001:0:808:808::",
        "no address",
    ],
)
def test_all_other_addresses_are_not_internal(address: str) -> None:
    assert not is_internal(address)


LOOPBACK = ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.0.1", "[::1]", "[::ffff:127.0.0.1]"]
LOOPBACK += ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost.localdomain", "ip6-localhost"]
EVERY_ADDRESS = ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "0", "0.0", "00.0.0.0"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_loopback_address_is_taken_for_a_webhook_beside_harbor_alone(host: str) -> None:
    url = f"http://{host}:8080/webhooks/harbor"
    with pytest.raises(ConfigError, match="Harbor can't reach the replicator at") as refused:
        check_reachable(url, sidecar=False)
    assert "--sidecar" in refused.value.__notes__[0]
    assert len(f"{refused.value}\n{refused.value.__notes__[0]}".splitlines()) == 3
    check_reachable(url, sidecar=True)


@pytest.mark.parametrize("host", EVERY_ADDRESS)
def test_an_address_that_only_servers_have_is_never_taken_for_a_webhook(host: str) -> None:
    for sidecar in (False, True):
        with pytest.raises(ConfigError, match="every address"):
            check_reachable(f"http://{host}:8080/webhooks/harbor", sidecar=sidecar)
    assert shown_url(URL(f"https://{host}:8443"), "/x") == "https://HOST:8443/x"


def test_the_placeholder_of_the_examples_is_no_host() -> None:
    with pytest.raises(ConfigError, match="HOST is a placeholder"):
        check_reachable("http://HOST:8080/webhooks/harbor", sidecar=True)


def test_names_that_only_containers_know_are_told_apart() -> None:
    hosts = ("host.docker.internal", "gateway.docker.internal", "host.containers.internal", "Host.Minikube.Internal.")
    assert all("jobservice must know it" in reach_warning(f"http://{host}/webhooks/harbor") for host in hosts)
    others = ("replicator.example.internal", "host.example.com", "host.internal")
    assert not any(reach_warning(f"http://{host}/webhooks/harbor") for host in others)


@pytest.mark.parametrize(
    "host", ["replicator.example.com", "10.0.0.7", "10.1", "localhost.example.com", "1.example.com", "[2001:db8::7]"]
)
def test_any_other_address_is_taken_and_shown_as_it_is(host: str) -> None:
    check_reachable(f"http://{host}:8080/webhooks/harbor", sidecar=False)
    assert shown_url(URL(f"http://{host}:8080"), "/x") == f"http://{host}:8080/x"
