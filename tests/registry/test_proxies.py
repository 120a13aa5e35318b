"""Requests through proxies: what goes through, what the proxy's refusals mean, and what it is never asked for."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.registry.errors import ConnectionFailed, ProtocolViolated, ProxyFailed
from replicator.registry.manifest import Descriptor, digest_of
from replicator.registry.proxies import Proxies
from tests.registry.conftest import QUICK, Server, served
from tests.standins.faults import Answer, Fault, Redirect
from tests.standins.forward_proxy import ForwardProxy
from tests.standins.images import image, push
from tests.standins.proxy import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "acr.only-by-proxy.test"
PASSWORD = "p@ss/w:rd"
LOGIN = "http://us%C3%A9r:p%40ss%2Fw%3Ard@"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
async def acr(registry: Server, authority: trustme.CA) -> AsyncIterator[Server]:
    """A registry with a certificate for a name that this machine can't resolve."""
    async with Upstream(registry.host) as upstream, served(upstream.forward, tls=tls(authority, NAME)) as server:
        yield server


@asynccontextmanager
async def through(access: Access, **variables: str) -> AsyncIterator[Registries]:
    async with Registries(lambda _: access, timing=QUICK, proxies=Proxies.from_environ(variables)) as registries:
        yield registries


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


async def test_a_registry_that_only_the_proxy_can_find_is_read_and_written(
    acr: Server, registry: Server, ca_file: Path
) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v1", root)
    proxy = ForwardProxy({f"{NAME}:443": acr.host}, login=f"usér:{PASSWORD}")
    async with proxy.running(), through(Access(ca_file=ca_file), HTTPS_PROXY=LOGIN + proxy.host) as registries:
        remote = registries.destination(Repository(NAME, "team/app"))
        found = await remote.get_manifest("v1")
        layer = root.blobs[0]
        descriptor = Descriptor("", layer.digest, layer.size)
        for _ in range(3):
            assert await remote.has_blob(layer.digest)
        stream = await remote.open_blob(descriptor)
        location = await registries.destination(Repository(NAME, "team/other")).start_upload()
        assert location is not None
        await registries.destination(Repository(NAME, "team/other")).finish_upload(location, stream)
        await stream.aclose()
    assert found.digest == root.digest
    assert set(proxy.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}
    # Connections are used again: a download and an upload at the same time need two.
    assert len(proxy.asked) <= 2
    assert all("authorization" not in head for head in proxy.heads)


async def test_the_certificate_behind_a_proxy_is_verified_for_the_targets_name(acr: Server, ca_file: Path) -> None:
    proxy = ForwardProxy({"other.test:443": acr.host})
    async with proxy.running(), through(Access(ca_file=ca_file), HTTPS_PROXY=proxy.host) as registries:
        with pytest.raises(Exception, match=r"other\.test:443 is not trusted"):
            await registries.source(Repository("other.test", "a/b")).head_manifest("v1")
    assert acr.faults.log.count() == 0


async def test_plain_http_takes_the_proxy_with_the_whole_url_and_the_login(registry: Server) -> None:
    await push(registry.host, "team/app", "v1", image(1))
    proxy = ForwardProxy({"plain.test:80": registry.host}, login=f"usér:{PASSWORD}")
    access = Access(endpoint="http://plain.test")
    async with proxy.running(), through(access, HTTP_PROXY=LOGIN + proxy.host) as registries:
        await registries.source(Repository("plain.test", "team/app")).get_manifest("v1")
    assert proxy.asked == ["GET http://plain.test/v2/team/app/manifests/v1 HTTP/1.1"]
    # The registry does not get to see the proxy's login.
    assert all("Proxy-Authorization" not in entry.headers for entry in registry.faults.log)


async def test_a_proxy_with_tls_is_verified_by_the_systems_authorities_whatever_holds_for_the_target(
    acr: Server, authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    async with proxy.running(tls(authority, "127.0.0.1")):
        for access in (Access(insecure=True), Access(ca_file=ca_file)):
            async with through(access, HTTPS_PROXY=f"https://{proxy.host}") as registries:
                with pytest.raises(ProxyFailed, match=f"certificate of the proxy {proxy.host} is not trusted"):
                    await registries.source(Repository(NAME, "a/b")).head_manifest("v1")
        assert proxy.asked == []
        context = ssl.create_default_context(cafile=str(ca_file))
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", context)
        async with through(Access(insecure=True), HTTPS_PROXY=f"https://{proxy.host}") as registries:
            assert await registries.source(Repository(NAME, "a/b")).head_manifest("v1") is None
    assert set(proxy.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}


async def test_a_proxy_with_tls_is_shown_nothing_if_the_library_can_not_be_told_to_verify_it(
    acr: Server, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    monkeypatch.delattr("aiohttp.BaseConnector._update_proxy_auth_header_and_build_proxy_req")
    async with (
        proxy.running(tls(authority, "127.0.0.1")),
        through(Access(insecure=True), HTTPS_PROXY=f"https://u:s3cret@{proxy.host}") as registries,
    ):
        with pytest.raises(ProxyFailed, match=f"proxy {proxy.host} can't be verified with aiohttp"):
            await registries.source(Repository(NAME, "a/b")).head_manifest("v1")
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("status", "login", "advice"),
    [
        (407, "", "write the user name and the password of the proxy into HTTPS_PROXY"),
        (407, "u:wr0ng@", "correct them"),
        (403, "", f"allow {NAME}:443 there"),
        (502, "", "can't reach"),
    ],
)
async def test_a_refusal_of_the_proxy_is_told_as_the_proxys_and_is_an_outage(
    status: int, login: str, advice: str
) -> None:
    proxy = ForwardProxy({}, refuses=status, login="u:right" if status == 407 else None)
    async with proxy.running(), through(Access(), HTTPS_PROXY=f"http://{login}{proxy.host}") as registries:
        with pytest.raises(ProxyFailed) as caught:
            await registries.source(Repository(NAME, "a/b")).head_manifest("v1")
    said = str(caught.value)
    assert f"the proxy {proxy.host} refused CONNECT to {NAME}:443 ({status})" in said
    assert advice in said
    assert "wr0ng" not in said
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert len(proxy.asked) == QUICK.attempts


@pytest.mark.parametrize(("status", "kind"), [(407, ErrorClass.TRANSIENT), (403, ErrorClass.TRANSIENT)])
async def test_a_refusal_of_plain_http_by_the_proxy_ends_no_copy(status: int, kind: ErrorClass) -> None:
    proxy = ForwardProxy({}, refuses=status)
    access = Access(endpoint="http://plain.test")
    async with proxy.running(), through(access, HTTP_PROXY=proxy.host) as registries:
        with pytest.raises(ProxyFailed, match=f"proxy {proxy.host}") as caught:
            await registries.source(Repository("plain.test", "a/b")).get_manifest("v1")
    assert caught.value.error_class is kind


async def test_a_proxy_that_takes_no_connection_is_named() -> None:
    async with served(nothing) as gone:
        pass
    async with through(Access(), HTTPS_PROXY=f"u:s3cret@{gone.host}") as registries:
        with pytest.raises(ProxyFailed, match=f"no connection to the proxy {gone.host}.*check HTTPS_PROXY") as caught:
            await registries.source(Repository(NAME, "a/b")).head_manifest("v1")
    assert "s3cret" not in str(caught.value)
    async with through(Access(), HTTPS_PROXY="http://no-such-proxy.invalid:3128") as registries:
        with pytest.raises(ProxyFailed, match=r"name of the proxy no-such-proxy.invalid:3128 can't be resolved"):
            await registries.source(Repository(NAME, "a/b")).head_manifest("v1")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n"])
async def test_a_proxy_that_does_not_answer_connect_is_named(answer: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with through(Access(), HTTPS_PROXY=host) as registries:
            with pytest.raises(ConnectionFailed, match=f"through the proxy {host}"):
                await registries.source(Repository(NAME, "a/b")).head_manifest("v1")


async def test_an_answer_of_the_proxy_does_not_decide_that_a_registry_speaks_plain_http(
    acr: Server,
) -> None:
    proxy = ForwardProxy({f"{NAME}:443": acr.host}, refuses=503)
    async with (
        proxy.running(),
        through(Access(insecure=True), HTTPS_PROXY=proxy.host, HTTP_PROXY=proxy.host) as registries,
    ):
        remote = registries.source(Repository(NAME, "a/b"))
        with pytest.raises(ProxyFailed):
            await remote.head_manifest("v1")
        proxy.refuses = None
        assert await remote.head_manifest("v1") is None
    assert proxy.asked[-1] == f"CONNECT {NAME}:443 HTTP/1.1"


async def test_a_registry_takes_its_own_proxy_against_no_proxy(acr: Server, ca_file: Path) -> None:
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    async with proxy.running():
        access = Access(ca_file=ca_file, proxies=Proxies.parse(proxy.host))
        async with through(access, HTTPS_PROXY="http://127.0.0.1:1", NO_PROXY="*") as registries:
            assert await registries.source(Repository(NAME, "a/b")).head_manifest("v1") is None
    assert len(proxy.asked) == 1


async def test_a_registry_whose_proxy_is_off_is_reached_directly_against_the_environment(acr: Server) -> None:
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    async with proxy.running(), through(Access(proxies=Proxies.parse("off")), HTTPS_PROXY=proxy.host) as registries:
        with pytest.raises(ConnectionFailed, match=f"the name {NAME} can't be resolved"):
            await registries.source(Repository(NAME, "a/b")).head_manifest("v1")
    assert proxy.asked == []


@pytest.mark.parametrize(
    "where",
    ["http://169.254.169.254/latest/meta-data/", "https://[fe80::1]/", "http://2130706433/", "http://localhost./"],
)
async def test_a_redirect_does_not_take_the_proxy_to_an_internal_address(
    acr: Server, ca_file: Path, where: str
) -> None:
    acr.faults.add(Fault(Redirect(location=where), times=None))
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    async with (
        proxy.running(),
        through(Access(ca_file=ca_file, insecure=True), HTTPS_PROXY=proxy.host, HTTP_PROXY=proxy.host) as registries,
    ):
        with pytest.raises(ProtocolViolated, match="an address of this machine"):
            await registries.source(Repository(NAME, "a/b")).get_manifest("v1")
    assert set(proxy.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}


async def test_a_redirect_from_behind_a_proxy_does_not_lead_to_this_machine_without_it(
    acr: Server, ca_file: Path, registry: Server
) -> None:
    before = registry.faults.log.count()
    acr.faults.add(Fault(Redirect(location=f"http://{registry.host}/secrets"), times=None))
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    async with (
        proxy.running(),
        through(Access(insecure=True), HTTPS_PROXY=proxy.host, HTTP_PROXY=proxy.host) as registries,
    ):
        with pytest.raises(ProtocolViolated, match="an address of this machine"):
            await registries.source(Repository(NAME, "a/b")).get_manifest("v1")
    assert registry.faults.log.count() == before


async def test_a_challenge_does_not_take_the_proxy_to_an_internal_address(acr: Server, ca_file: Path) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="https://169.254.169.254/token"'}
    acr.faults.add(Fault(Answer(401, headers=challenge), times=None))
    proxy = ForwardProxy({f"{NAME}:443": acr.host})
    async with proxy.running(), through(Access(ca_file=ca_file), HTTPS_PROXY=proxy.host) as registries:
        with pytest.raises(ProtocolViolated, match="an address of this machine"):
            await registries.source(Repository(NAME, "a/b")).get_manifest("v1")
    assert set(proxy.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}


async def test_storage_with_a_name_that_only_the_proxy_knows_is_read(acr: Server, registry: Server) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v1", root)
    blob = root.blobs[0]
    storage = "oss.only-by-proxy.test"
    acr.faults.add(Fault(Redirect(location=f"http://{storage}/v2/team/app/blobs/{blob.digest}"), path="/blobs/"))
    proxy = ForwardProxy({f"{NAME}:443": acr.host, f"{storage}:80": registry.host})
    async with (
        proxy.running(),
        through(Access(insecure=True), HTTPS_PROXY=proxy.host, HTTP_PROXY=proxy.host) as registries,
    ):
        remote = registries.source(Repository(NAME, "team/app"))
        assert digest_of(await remote.read_blob(Descriptor("", blob.digest, blob.size))) == blob.digest
    assert proxy.asked[-1].startswith(f"GET http://{storage}/v2/")
