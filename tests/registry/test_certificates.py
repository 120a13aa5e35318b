"""Certificates of a private authority: what is taken where `ca_file` names it, and what is said of the rest."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientConnectorCertificateError, web
from aiohttp.client_reqrep import ConnectionKey
from cryptography.x509 import load_pem_x509_certificates
from yarl import URL

from replicator.commands.check.registries import look_at_certificate
from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.registry.connection_errors import certificate_words
from replicator.registry.errors import CertificateExpired, CertificateRefused
from replicator.registry.limits import RequestObserver
from replicator.registry.proxies import Proxies
from tests.registry.conftest import client, served
from tests.standins.certificates import harbors_recipe, strict


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


async def ask(tls: ssl.SSLContext, access: Access) -> str:
    """Ask a server at the name ``localhost`` for a tag, and return its address."""
    async with served(nothing, tls=tls) as server, client(access) as registries:
        host = f"localhost:{server.host.rpartition(':')[2]}"
        assert await registries.source(Repository(host, "team/app")).head_manifest("v1") is None
        return host


@pytest.mark.parametrize("how", [{}, {"key_identifier": False}, {"only_common_name": True}], ids=str)
async def test_a_certificate_by_harbors_recipe_is_taken_on_every_python_where_ca_file_names_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    strict(monkeypatch)
    tls = harbors_recipe(tmp_path, **how)
    await ask(tls, Access(ca_file=tmp_path / "ca.pem"))
    async with served(nothing, tls=tls) as server:
        host = f"localhost:{server.host.rpartition(':')[2]}"
        (found,) = await look_at_certificate(host, Access(ca_file=tmp_path / "ca.pem"), Proxies())
    assert "issued by MyRoot" in found.message


async def test_the_end_of_a_server_s_certificate_is_told_where_it_is_verified(tmp_path: Path) -> None:
    tls, told = harbors_recipe(tmp_path), list[tuple[str, float]]()
    observer = RequestObserver(certified=lambda *what: told.append(what))
    async with served(nothing, tls=tls) as server:
        host = f"localhost:{server.host.rpartition(':')[2]}"
        for access in (Access(ca_file=tmp_path / "ca.pem"), Access(insecure=True)):
            async with Registries(
                dict.fromkeys([Repository(host, "team/app")], access).__getitem__, observer=observer
            ) as registries:
                assert await registries.source(Repository(host, "team/app")).head_manifest("v1") is None
    (certificate,) = load_pem_x509_certificates((tmp_path / "certificate.pem").read_bytes())
    assert told == [("localhost", certificate.not_valid_after_utc.timestamp())]


async def test_a_ca_file_may_hold_the_servers_own_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict(monkeypatch)
    await ask(harbors_recipe(tmp_path), Access(ca_file=tmp_path / "certificate.pem"))


def test_a_strict_refusal_without_a_ca_file_says_that_it_helps() -> None:
    refused = ssl.SSLCertVerificationError(1, "CA cert does not include key usage extension")
    # The system's authorities are read by aiohttp as it is imported, so no server can be asked in their name.
    refused.verify_code, refused.verify_message = 92, "CA cert does not include key usage extension"
    key = ConnectionKey("localhost", 443, True, True, None, None, None)
    why, do = certificate_words(URL("https://localhost"), ClientConnectorCertificateError(key, refused))
    assert "does not include key usage" in why
    assert "Python 3.13 and later" in do
    assert "ca_file" in do


async def test_an_authority_that_is_not_in_the_ca_file_is_said_with_its_name(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(CertificateRefused) as caught:
        await ask(harbors_recipe(tmp_path), Access(ca_file=other))
    assert f"its authority is not in {other}: add it" in str(caught.value)
    assert "CA certificate as ca_file" not in str(caught.value)


async def test_a_certificate_for_another_name_is_said_with_the_field_that_counts(tmp_path: Path) -> None:
    with pytest.raises(CertificateRefused, match="use a name that the certificate contains \\(subjectAltName\\)"):
        await ask(harbors_recipe(tmp_path, "harbor.example.com"), Access(ca_file=tmp_path / "ca.pem"))


async def test_an_expired_certificate_is_an_outage_of_the_other_side_with_its_cure() -> None:
    ca = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(tls)
    with ca.cert_pem.tempfile() as ca_file, pytest.raises(CertificateExpired) as caught:
        await ask(tls, Access(ca_file=Path(ca_file)))
    error = caught.value
    assert error.error_class is ErrorClass.TRANSIENT
    # It counts as silence, so copies wait for the registry, without an attempt.
    assert error.silent
    assert error.wait is not None
    assert "has expired" in str(error)
    assert "renew it there" in str(error)
