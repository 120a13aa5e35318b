"""A network that lets nobody out but by a proxy: the commands use it, and nothing they say shows its password."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.running import TOKEN, replicator, running
from tests.standins.distribution import reused_distribution
from tests.standins.forward_proxy import ForwardProxy
from tests.standins.images import image, push
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "acr.only-by-proxy.test"
SECRET = "s3cr:t"


@dataclass
class Behind:
    """A source on this machine, and a destination that only ``proxy`` can find.

    Attributes:
        source: ``host:port``.
        proxy: asks for a login.
        rules: the rules file, in a directory of the test's own.
        url: of the proxy, with its login.
    """

    source: str
    proxy: ForwardProxy
    rules: Path

    @property
    def url(self) -> str:
        return f"http://corp:s3cr%3At@{self.proxy.host}"

    @property
    def settings(self) -> dict[str, str]:
        return {"HTTPS_PROXY": self.url, "NO_PROXY": "localhost", "REPLICATOR_WEBHOOK_TOKEN": TOKEN}


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(context)
    async with (
        reused_distribution() as source,
        reused_distribution() as destination,
        Upstream(destination) as upstream,
        serve(upstream.forward, tls=context) as secure,
        ForwardProxy({f"{NAME}:443": secure}, login=f"corp:{SECRET}").running() as proxy,
    ):
        await push(source, "team/app", "v1", image(1))
        auth = {source: {"anonymous": True, "insecure": True}, NAME: {"anonymous": True, "ca_file": "ca.pem"}}
        rules = tmp_path / "rules.json"
        rules.write_text(json.dumps({"auth": auth, "images": {f"{source}/team/app": f"{NAME}/mirror/app"}}))
        yield Behind(source, proxy, rules)


def unsaid(text: str) -> None:
    assert SECRET not in text
    assert "s3cr%3At" not in text
    assert "Y29ycDpzM2NyOnQ" not in text


async def test_copy_takes_the_proxy_and_explain_says_so(behind: Behind, tmp_path: Path) -> None:
    names = (f"{behind.source}/team/app:v1", f"{NAME}/mirror/app:v1")
    ended = await replicator("copy", *names, "--config", behind.rules, cwd=tmp_path, settings=behind.settings)
    assert ended.code == 0, ended.said
    assert set(behind.proxy.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}
    told = await replicator("explain", names[0], "--config", behind.rules, cwd=tmp_path, settings=behind.settings)
    assert f"{NAME} is reached through the proxy {behind.proxy.host} (HTTPS_PROXY)" in told.said
    unsaid(ended.said + told.said)


async def test_check_says_how_each_host_is_reached(behind: Behind, tmp_path: Path) -> None:
    # In .env, where the other secrets are.
    (tmp_path / ".env").write_text(f"https_proxy={behind.url}\n")
    command = ("check", "--json", "--config", behind.rules)
    settings = {"REPLICATOR_WEBHOOK_TOKEN": TOKEN, "REPLICATOR_LISTEN": "127.0.0.1:0"}
    ended = await replicator(*command, cwd=tmp_path, settings=settings)
    found = {(line["name"], line["subject"]): line["message"] for line in json.loads(ended.out)}
    assert found["proxy", NAME] == f"through the proxy {behind.proxy.host} (https_proxy)"
    assert found["proxy", behind.source] == "directly (an address of this machine)"
    assert found["login", NAME] == "reachable, without a login"
    assert "issued by" in found["certificate", NAME]
    ended = await replicator(*command, cwd=tmp_path, settings={**settings, "NO_PROXY": ".only-by-proxy.test"})
    found = {(line["name"], line["subject"]): line["message"] for line in json.loads(ended.out)}
    assert found["proxy", NAME] == "directly (NO_PROXY has .only-by-proxy.test)"
    unsaid(ended.said)


async def test_a_login_that_the_proxy_refuses_is_told_without_it(behind: Behind, tmp_path: Path) -> None:
    behind.proxy.login = "corp:another"
    for command in (
        ("copy", f"{behind.source}/team/app:v1", f"{NAME}/mirror/app:v1", "--config", behind.rules),
        ("check", "--config", behind.rules),
    ):
        ended = await replicator(*command, cwd=tmp_path, settings=behind.settings)
        assert ended.code == 1
        words = " ".join(ended.said.split())
        assert f"the proxy {behind.proxy.host} refused CONNECT to {NAME}:443 (407)" in words
        assert "HTTPS_PROXY" in words
        unsaid(ended.said)


async def test_serve_takes_another_proxy_from_env_without_a_restart(behind: Behind, tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("HTTPS_PROXY=http://127.0.0.1:1\n")
    settings = {"REPLICATOR_WEBHOOK_TOKEN": TOKEN, "REPLICATOR_LISTEN": "127.0.0.1:0", "REPLICATOR_RECONCILE": "off"}
    async with running("serve", "--config", behind.rules, cwd=tmp_path, settings=settings) as serving:
        dotenv.write_text(f"HTTPS_PROXY={behind.url}\n")
        await serving.until("configuration loaded")
        queued = ("backfill", "--detach", "--config", behind.rules)
        assert (await replicator(*queued, cwd=tmp_path, settings=settings)).code == 0
        await serving.until("copy done", result="copied")
        dotenv.write_text("HTTPS_PROXY=socks5://corp:s3cr%3At@127.0.0.1:1\n")
        (refused,) = await serving.until("configuration refused")
        assert refused["problems"] == [
            "HTTPS_PROXY: SOCKS is not supported; name an HTTP proxy, http://host:port",
        ]
        unsaid(str(serving.lines))
