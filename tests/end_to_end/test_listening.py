"""Access to the webhook: HTTPS, proxies, addresses."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from tests.harbor.test_events import default
from tests.running import TOKEN, replicator, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running import Serving


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    # 192.0.2.0/24 is for documentation (RFC 5737): nothing answers there, and nothing is asked in these tests.
    file.write_text(
        "auth:\n"
        "  harbor.example.com: {anonymous: true}\n"
        "  registry.example.com: {username: u, password: p, endpoint: 192.0.2.1}\n"
        "images:\n"
        "  harbor.example.com/team/**: registry.example.com/team/{flat}\n"
    )
    return file


async def post(
    address: str, *, tls: ssl.SSLContext | None = None, token: str = TOKEN, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Deliver a push; HTTPS with ``tls``, else HTTP."""
    sent = {"Authorization": token} | {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{'https' if tls else 'http'}://{address}/webhooks/harbor"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=default(), headers=sent, ssl=tls or True) as answer,
    ):
        return answer.status, await answer.json()


def issue(authority: trustme.CA, directory: Path, *, one_file: bool = False) -> None:
    """Write a certificate for the loopback address, and its key beside it or into the same file."""
    found = authority.issue_cert("127.0.0.1")
    certificate, key = directory / "tls.crt", directory / "tls.key"
    found.cert_chain_pems[0].write_to_path(certificate)
    if one_file:
        found.private_key_pem.write_to_path(certificate, append=True)
    else:
        found.private_key_pem.write_to_path(key)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("one_file", [False, True])
async def test_with_a_certificate_the_webhook_speaks_https_alone(rules: Path, tmp_path: Path, one_file: bool) -> None:
    authority = trustme.CA()
    issue(authority, tmp_path, one_file=one_file)
    settings = {"REPLICATOR_TLS_CERTIFICATE": str(tmp_path / "tls.crt")}
    if not one_file:
        settings["REPLICATOR_TLS_KEY"] = str(tmp_path / "tls.key")
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        (listening,) = serving.said("listening")
        assert listening["webhook"].startswith("https://")
        assert listening["status_page"] == listening["webhook"].removesuffix("webhooks/harbor")
        assert (await post(serving.address, tls=trusting(authority)))[0] == 202
        with pytest.raises(aiohttp.ClientError):
            await post(serving.address)


async def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(
    rules: Path, tmp_path: Path
) -> None:
    first, second = trustme.CA(), trustme.CA()
    issue(first, tmp_path)
    names = {"REPLICATOR_TLS_CERTIFICATE": "tls.crt", "REPLICATOR_TLS_KEY": "tls.key"}
    settings = {name: str(tmp_path / file) for name, file in names.items()}
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        # The certificate comes first and its key later: between the two nothing works together.
        renewed = second.issue_cert("127.0.0.1")
        renewed.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
        refused = await serving.until("configuration refused")
        assert "must be a matching PEM certificate and key" in str(refused[0]["problems"])
        assert (await post(serving.address, tls=trusting(first)))[0] == 202
        renewed.private_key_pem.write_to_path(tmp_path / "tls.key")
        await serving.until("configuration loaded")
        assert (await post(serving.address, tls=trusting(second)))[0] == 202
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await post(serving.address, tls=trusting(first))


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("missing.crt", None, "missing.crt can't be read: No such file"),
        ("rules.yaml", None, "must be a matching PEM certificate and key"),
        ("tls.crt", None, "must be a matching PEM certificate and key"),
        ("tls.crt", "missing.key", "missing.key can't be read: No such file"),
        (None, "tls.key", "REPLICATOR_TLS_KEY: a key without a certificate"),
    ],
)
async def test_files_that_are_no_certificate_are_said_at_the_start(
    rules: Path, tmp_path: Path, certificate: str | None, key: str | None, words: str
) -> None:
    issue(trustme.CA(), tmp_path)
    settings = {"REPLICATOR_WEBHOOK_TOKEN": TOKEN, "REPLICATOR_LISTEN": "127.0.0.1:0"}
    settings |= {"REPLICATOR_TLS_CERTIFICATE": str(tmp_path / certificate)} if certificate else {}
    settings |= {"REPLICATOR_TLS_KEY": str(tmp_path / key)} if key else {}
    ended = await replicator("serve", "--config", rules, cwd=tmp_path, settings=settings)
    assert ended.code == 2
    assert words in ended.err


async def test_only_named_addresses_get_their_events_taken(rules: Path, tmp_path: Path) -> None:
    settings = {"REPLICATOR_WEBHOOK_SOURCES": "10.0.0.0/8, 192.0.2.7"}
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        status, answer = await post(serving.address)
        assert (status, answer) == (403, {"error": "this address may not send webhooks"})
        # Who is no proxy of ours can say what it wants.
        assert (await post(serving.address, X_Forwarded_For="10.0.0.1"))[0] == 403
        assert serving.said("webhook refused", client="127.0.0.1")
        assert not serving.said("webhook taken")
        # Probes come from elsewhere.
        async with aiohttp.ClientSession() as session, session.get(f"{serving.url}/healthz") as probe:
            assert probe.status == 200


@pytest.mark.parametrize("listen", ["127.0.0.1:0", ":0", "[::]:0"])
async def test_a_named_proxy_is_believed_about_the_last_sender_that_is_not_a_proxy_itself(
    rules: Path, tmp_path: Path, listen: str
) -> None:
    settings = {
        "REPLICATOR_LISTEN": listen,
        "REPLICATOR_WEBHOOK_SOURCES": "192.0.2.7",
        "REPLICATOR_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
    }
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        address = f"127.0.0.1:{serving.address.rpartition(':')[2]}"
        assert (await post(address, X_Forwarded_For="192.0.2.7"))[0] == 202
        assert (await post(address, X_Forwarded_For="192.0.2.7, 10.1.2.3"))[0] == 202
        # Entries before the first address that is not a trusted proxy are the sender's own claim.
        assert (await post(address, X_Forwarded_For="192.0.2.7, 198.51.100.1"))[0] == 403
        assert (await post(address, X_Forwarded_For="garbage"))[0] == 403
        assert (await post(address))[0] == 403


async def told(serving: Serving) -> list[str]:
    """The words for the tokens that events came with."""
    return [line.get("token", "current") for line in serving.said("webhook taken")]


async def test_a_token_is_changed_without_losing_an_event(rules: Path, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "replicator_webhook_token").write_text("first\n")
    settings = {"REPLICATOR_SECRETS_DIR": str(secrets), "REPLICATOR_WEBHOOK_TOKEN": ""}
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        assert (await post(serving.address, token="first"))[0] == 202
        (secrets / "replicator_webhook_former_tokens").write_text("first\n")
        (secrets / "replicator_webhook_token").write_text("second\n")
        await serving.until("configuration loaded")
        assert (await post(serving.address, token="first"))[0] == 202
        assert (await post(serving.address, token="Bearer second"))[0] == 202
        assert await told(serving) == ["current", "former", "current"]
        (secrets / "replicator_webhook_former_tokens").unlink()
        await serving.until("configuration loaded", 2)
        assert (await post(serving.address, token="first"))[0] == 401
        assert (await post(serving.address, token="second"))[0] == 202
        assert not [line for line in serving.lines if "first" in str(line) or "second" in str(line)]
