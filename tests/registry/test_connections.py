"""Connections to a registry: TLS, plain HTTP, redirects, deadlines, and pauses that the host asks for."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, Timing
from replicator.registry.errors import (
    CertificateRefused,
    ConnectionFailed,
    Denied,
    NotFound,
    NoTls,
    NotYet,
    ProtocolViolated,
    Refused,
    RegistryError,
    ServerFailed,
    TooManyRequests,
)
from replicator.registry.manifest import digest_of
from tests.registry.conftest import QUICK, Server, client, repository, served
from tests.standins.faults import Answer, Cut, CutUpload, Delay, Fault, Headers, Redirect
from tests.standins.images import image, push
from tests.standins.outages import deaf
from tests.standins.proxy import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DIGEST = digest_of(b"x")


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
async def secure(registry: Server, authority: trustme.CA) -> AsyncIterator[Server]:
    """The registry behind a proxy with TLS, of which it is not aware: its Locations are plain HTTP."""
    async with Upstream(registry.host) as upstream:

        async def unaware(request: web.BaseRequest) -> web.StreamResponse:
            return await upstream.forward(request, headers={"X-Forwarded-Proto": "http"})

        async with served(unaware, tls=tls(authority)) as server:
            yield server


async def test_a_certificate_is_verified(secure: Server, ca_file: Path) -> None:
    name = Repository(secure.host, "team/app")
    async with client(Access()) as registries:
        with pytest.raises(CertificateRefused, match="ca_file") as caught:
            await registries.source(name).head_manifest("v1")
        assert caught.value.error_class is ErrorClass.PERMANENT
    assert len(secure.faults.log) == 0
    async with client(Access(ca_file=ca_file)) as registries:
        assert await registries.source(name).head_manifest("v1") is None


async def test_a_certificate_of_another_host_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    async with (
        served(nothing, tls=tls(authority, "harbor.example.com")) as server,
        client(Access(ca_file=ca_file)) as registries,
    ):
        with pytest.raises(CertificateRefused):
            await registries.source(Repository(server.host, "a/b")).head_manifest("v1")


async def test_an_upload_stays_on_tls_where_the_registry_says_plain_http(secure: Server, ca_file: Path) -> None:
    async with client(Access(ca_file=ca_file)) as registries:
        location = await registries.destination(Repository(secure.host, "team/app")).start_upload()
    assert location is not None
    assert location.scheme == "https"
    assert f"{location.host}:{location.port}" == secure.host


async def test_insecure_takes_any_certificate_and_else_plain_http(secure: Server, registry: Server) -> None:
    async with client(Access(insecure=True)) as registries:
        for server in (secure, registry):
            assert await registries.source(Repository(server.host, "team/app")).head_manifest("v1") is None


async def test_plain_http_is_never_spoken_unless_insecure(registry: Server) -> None:
    async with client(Access()) as registries:
        with pytest.raises(NoTls, match="insecure: true") as caught:
            await registries.source(Repository(registry.host, "team/app")).head_manifest("v1")
    # Another attempt would end the same way, so there is none.
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert len(registry.faults.log) == 0


async def test_an_endpoint_of_https_that_speaks_plain_http_is_told_as_that(registry: Server) -> None:
    access = Access(endpoint=f"https://{registry.host}", insecure=True)
    async with client(access) as registries:
        with pytest.raises(NoTls, match="if its endpoint says https://, write http://"):
            await registries.source(Repository(registry.host, "team/app")).head_manifest("v1")


async def test_a_redirect_out_of_tls_is_refused(secure: Server, ca_file: Path) -> None:
    async with served(nothing) as plain, client(Access(ca_file=ca_file)) as registries:
        secure.faults.add(Fault(Redirect(f"http://{plain.host}"), times=None))
        with pytest.raises(ProtocolViolated, match=f"plain HTTP.*insecure: true for {secure.host}"):
            await registries.source(Repository(secure.host, "team/app")).get_manifest("v1")
        assert len(plain.faults.log) == 0


async def test_insecure_holds_for_the_storage_that_the_registry_redirects_to(
    secure: Server, authority: trustme.CA
) -> None:
    # Under another name than the registry's, so that it counts as another host.
    async with served(nothing, tls=tls(authority, "localhost")) as other, client(Access(insecure=True)) as registries:
        elsewhere = other.host.replace("127.0.0.1", "localhost")
        secure.faults.add(Fault(Redirect(f"https://{elsewhere}"), path="/manifests/", times=None))
        with pytest.raises(NotFound):
            await registries.source(Repository(secure.host, "team/app")).get_manifest("v1")
        assert len(other.faults.log) == 1


async def test_insecure_does_not_hold_for_a_token_server_elsewhere_that_gets_the_password(
    secure: Server, authority: trustme.CA
) -> None:
    access = Access("user", "pass-word", insecure=True)
    async with served(nothing, tls=tls(authority, "localhost")) as other, client(access) as registries:
        realm = f"https://{other.host.replace('127.0.0.1', 'localhost')}/token"
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
        secure.faults.add(Fault(Answer(401, headers=challenge), times=None))
        with pytest.raises(CertificateRefused, match=f"ca_file of {secure.host}"):
            await registries.source(Repository(secure.host, "team/app")).get_manifest("v1")
        assert len(other.faults.log) == 0


async def test_storage_of_another_authority_is_told_with_the_file_that_makes_it_trusted(
    secure: Server, ca_file: Path
) -> None:
    theirs = trustme.CA()
    async with served(nothing, tls=tls(theirs, "localhost")) as other:
        elsewhere = other.host.replace("127.0.0.1", "localhost")
        secure.faults.add(Fault(Redirect(f"https://{elsewhere}"), path="/manifests/", times=None))
        name = Repository(secure.host, "team/app")
        async with client(Access(ca_file=ca_file)) as registries:
            with pytest.raises(CertificateRefused, match=f"add its authority to the ca_file of {secure.host}"):
                await registries.source(name).get_manifest("v1")
        with ca_file.open("ab") as file:
            file.write(theirs.cert_pem.bytes())
        async with client(Access(ca_file=ca_file)) as registries:
            with pytest.raises(NotFound):
                await registries.source(name).get_manifest("v1")


async def test_redirects_end() -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Redirect(), times=None))
        with pytest.raises(ProtocolViolated, match="redirects"):
            await remote.get_manifest("v1")
        assert len(faults.log) == 6


@pytest.mark.parametrize("location", ["ftp://h.example.com/x", "http://[", "http://h.example.com:99999/", "//"])
async def test_a_redirect_to_no_url_is_a_registrys_error(location: str) -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Redirect(location=location), times=None))
        with pytest.raises(RegistryError):
            await remote.get_manifest("v1")


async def test_a_presigned_location_is_asked_as_it_is() -> None:
    async with served(nothing) as storage, repository(nothing) as (remote, faults):
        signed = "/o/a%2Fb?X-Sig=a%2Bb%3D&space=a%20b+c&t=%7E~"
        faults.add(Fault(Redirect(location=f"http://{storage.host}{signed}")))
        with pytest.raises(NotFound):
            await remote.get_manifest("v1")
        assert storage.faults.log.entries[0].headers["Host"] == storage.host
        assert [entry.query for entry in storage.faults.log] == ["X-Sig=a%2Bb%3D&space=a%20b+c&t=%7E~"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "error_class", "requests"),
    [
        (403, "DENIED", Denied, ErrorClass.PERMANENT, 1),
        (404, "MANIFEST_UNKNOWN", NotFound, ErrorClass.PERMANENT, 1),
        (412, "PROJECTPOLICYVIOLATION", NotYet, ErrorClass.NOT_YET, 1),
        (400, "NAME_INVALID", Refused, ErrorClass.PERMANENT, 1),
        (418, None, Refused, ErrorClass.PERMANENT, 1),
        (429, "TOOMANYREQUESTS", TooManyRequests, ErrorClass.TRANSIENT, QUICK.attempts),
        (500, "UNKNOWN", ServerFailed, ErrorClass.TRANSIENT, QUICK.attempts),
        (503, None, ServerFailed, ErrorClass.TRANSIENT, QUICK.attempts),
    ],
)
async def test_an_answer_means_what_its_status_says(
    status: int, code: str | None, kind: type[RegistryError], error_class: ErrorClass, requests: int
) -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(status, code, "its own words", headers={"Retry-After": "0"}), times=None))
        with pytest.raises(kind) as caught:
            await remote.get_manifest("v1")
        assert (type(caught.value), caught.value.error_class) == (kind, error_class)
        assert caught.value.status == status
        assert code is None or "its own words" in str(caught.value)
        assert len(faults.log) == requests


async def test_words_of_a_registry_are_quoted_as_one_short_printable_line() -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(403, "DENIED", "a\x1b[31m\r\n\x00b" + "c" * 5000), times=None))
        with pytest.raises(Denied) as caught:
            await remote.get_manifest("v1")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_that_one_answer_asks_for_holds_for_all_requests(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def short(seconds: float, result: None = None) -> None:
        waits.append(seconds)
        await sleep(min(seconds, 0.01), result)

    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(status, headers={"Retry-After": "0"})))
        faults.add(Fault(Answer(status, headers={"Retry-After": "2"})))
        assert await remote.head_manifest("v1") is None
        assert await remote.head_manifest("v2") is None
        assert len(faults.log) == 4
        faults.add(Fault(Answer(403), times=None))
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        faults.faults.insert(0, Fault(Answer(status, headers={"Retry-After": date})))
        monkeypatch.setattr("replicator.registry.transport.asyncio.sleep", short)
        task = asyncio.create_task(remote.get_manifest("v1"))
        await sleep(0.2)
        assert 20 < max(waits) <= 31
        # Other requests to the host wait as well, so none has been sent since.
        others = [asyncio.create_task(remote.get_manifest("v2")), asyncio.create_task(remote.has_blob(DIGEST))]
        await sleep(0.05)
        assert len(faults.log) == 5
        for one in (task, *others):
            one.cancel()
        await asyncio.gather(task, *others, return_exceptions=True)


async def test_a_pause_of_more_than_a_minute_is_left_to_the_caller() -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(429, headers={"Retry-After": "3600"}), times=None))
        with pytest.raises(TooManyRequests) as caught:
            await remote.get_manifest("v1")
        assert caught.value.retry_after == 3600
        assert len(faults.log) == 1


async def test_a_503_on_head_is_retried() -> None:
    root = image(1)

    async def head(_: web.BaseRequest) -> web.StreamResponse:
        headers = {"Docker-Content-Digest": root.digest, "Content-Type": root.media_type}
        return web.Response(headers={**headers, "Content-Length": "7"})

    async with repository(head) as (remote, faults):
        faults.add(Fault(Answer(503), times=2))
        descriptor = await remote.head_manifest("v1")
        assert descriptor is not None
        assert (descriptor.digest, descriptor.media_type, descriptor.size) == (root.digest, root.media_type, 7)
        assert [entry.status for entry in faults.log] == [503, 503, 200]


@pytest.mark.parametrize("fault", [CutUpload(0, "stall"), Cut(0, "stall"), Cut(2, "stall"), Delay(30)])
async def test_a_registry_that_falls_silent_meets_a_deadline(fault: CutUpload | Cut | Delay) -> None:
    async def words(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="some words")

    async with repository(words, timing=Timing(read=0.2, commit=5, attempts=2)) as (remote, faults):
        faults.add(Fault(fault, times=None))
        with pytest.raises(ConnectionFailed, match=r"stopped answering.*raise REPLICATOR_READ_TIMEOUT") as caught:
            await remote.get_manifest("v1")
        assert caught.value.error_class is ErrorClass.TRANSIENT
        assert len(faults.log) == 2


async def test_a_host_that_takes_no_connection_is_told_with_the_setting_of_the_timeout() -> None:
    async with deaf() as host, client(timing=Timing(connect=0.1, attempts=1)) as registries:
        with pytest.raises(
            ConnectionFailed, match=f"no connection to {host} in time.*raise REPLICATOR_CONNECT_TIMEOUT"
        ):
            await registries.source(Repository(host, "a/b")).head_manifest("v1")


async def test_a_registry_that_drips_meets_a_deadline() -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    async with repository(drip, timing=Timing(read=0.5, commit=0.5, attempts=1)) as (remote, _):
        with pytest.raises(ConnectionFailed, match="no answer within"):
            await remote.get_manifest("v1")


async def test_an_address_that_refuses_connections_is_named_in_the_error() -> None:
    async with served(nothing) as gone:
        pass
    async with client(timing=Timing(attempts=1)) as registries:
        with pytest.raises(ConnectionFailed, match=r"can't connect to 127\.0\.0\.1:\d+: Connection refused$"):
            await registries.source(Repository(gone.host, "a/b")).head_manifest("v1")


async def test_a_name_that_does_not_resolve_is_named_in_the_error() -> None:
    async with client(Access(), timing=Timing(attempts=1)) as registries:
        with pytest.raises(ConnectionFailed, match=r"registry\.invalid"):
            await registries.source(Repository("registry.invalid", "a/b")).head_manifest("v1")


async def test_an_endpoint_takes_the_place_of_the_name(registry: Server) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v1", root)
    access = Access(endpoint=f"http://{registry.host}")
    async with client({"harbor.example.com": access}) as registries:
        remote = registries.destination(Repository("harbor.example.com", "team/app"))
        assert (await remote.get_manifest("v1")).digest == root.digest
        registry.faults.add(Fault(Headers({"Location": "https://harbor.example.com/v2/up?state=a%2Fb"}), method="POST"))
        location = await remote.start_upload()
        assert str(location) == f"http://{registry.host}/v2/up?state=a%2Fb"


async def test_a_token_endpoint_that_its_public_name_puts_on_plain_http_is_asked_over_the_endpoints_tls(
    secure: Server, ca_file: Path
) -> None:
    realm = 'Bearer realm="http://harbor.example.com/service/token"'
    access = Access("user", "word", ca_file=ca_file, endpoint=f"https://{secure.host}")
    secure.faults.add(Fault(Answer(401, headers={"WWW-Authenticate": realm})))
    secure.faults.add(Fault(Answer(200, body=b'{"token": "t"}'), path="^/service/token$"))
    async with client({"harbor.example.com": access}) as registries:
        assert await registries.source(Repository("harbor.example.com", "team/app")).head_manifest("v1") is None
    assert secure.faults.log.count("GET", "^/service/token$", 200) == 1


async def test_a_token_endpoint_at_the_public_name_is_asked_at_the_endpoint(registry: Server) -> None:
    realm = 'Bearer realm="https://harbor.example.com/service/token"'
    access = Access("user", "word", endpoint=f"http://{registry.host}")
    registry.faults.add(Fault(Answer(401, headers={"WWW-Authenticate": realm})))
    registry.faults.add(Fault(Answer(200, body=b'{"token": "t"}'), path="^/service/token$"))
    async with client({"harbor.example.com": access}) as registries:
        assert await registries.source(Repository("harbor.example.com", "team/app")).head_manifest("v1") is None
    assert registry.faults.log.entries[1].path == "/service/token"


async def test_plain_http_that_fails_while_the_scheme_is_found_out_is_retried(
    registry: Server,
) -> None:
    async with client(Access(insecure=True)) as registries:
        remote = registries.source(Repository(registry.host, "team/app"))
        # aiohttp retries once by itself.
        registry.faults.add(Fault(Cut(None, "reset"), times=None))
        with pytest.raises(ConnectionFailed) as caught:
            await remote.get_manifest("v1")
        assert caught.value.error_class is ErrorClass.TRANSIENT
        registry.faults.faults.clear()
        with pytest.raises(NotFound):
            await remote.get_manifest("v1")
