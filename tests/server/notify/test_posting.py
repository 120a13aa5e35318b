"""Requests to receivers: accepted as their documents say, and harmless whatever the answer is."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import encode_basic_auth
from structlog.testing import capture_logs
from yarl import URL

from replicator.receivers import Format, Receiver, parse_receivers
from replicator.server.notify.sending import interpret, open_messenger
from tests.queue.servers import free_port
from tests.server.notify.conftest import ORIGIN, message
from tests.standins.chats import SECRETS, answering, dropping, endless, stalling
from tests.standins.forward_proxy import ForwardProxy
from tests.standins.server import serve

if TYPE_CHECKING:
    from replicator.server.notify.message import Message
    from replicator.server.notify.sending import DeliveryResult
    from tests.standins.chats import Chats

EVIL = message(('h/<!channel>:v1 <at user_id="all">', "`<@U1>`\n" + "镜" * 5000), count=7)


async def post(address: str, what: Message = EVIL, seconds: float = 10) -> DeliveryResult:
    async with open_messenger(ORIGIN, seconds) as messenger:
        with capture_logs() as lines:
            result = await messenger.send(parse_receivers(address)[0], what)
    assert not [secret for secret in SECRETS if secret in result.words + str(lines)]
    return result


@pytest.mark.parametrize("form", ["dingtalk", "feishu", "wecom", "slack", "plain"])
async def test_every_service_accepts_a_signed_message_in_its_format(robots: Chats, form: str) -> None:
    result = await post(getattr(robots, form))
    assert result.taken, result
    (taken,) = robots.taken
    assert "replicator: 7 copies failed" in str(taken)


@pytest.mark.parametrize(
    ("form", "part", "words"),
    [
        ("dingtalk", "#SECof", "secret after #"),
        ("dingtalk", "access_token=d", "copy its address again"),
        ("feishu", "#feishu", "secret after #"),
        ("wecom", "key=w", "copy its address again"),
        ("slack", "/B0/", "404: refused"),
        ("plain", "#bearer", "401: refused"),
    ],
)
async def test_a_wrong_address_or_secret_is_explained_and_not_retried(
    robots: Chats, form: str, part: str, words: str
) -> None:
    result = await post(getattr(robots, form).replace(part, f"{part}x"))
    assert not result.taken
    assert not result.retry
    assert words in result.words
    assert robots.taken == []


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_an_unavailable_receiver_is_retried(robots: Chats, status: int) -> None:
    robots.faults = [answering(status, headers={"Retry-After": "7"})]
    result = await post(robots.plain)
    assert (result.taken, result.retry, result.retry_after) == (False, True, 7.0)


@pytest.mark.parametrize(
    ("form", "body"),
    [("dingtalk", '{"errcode": 130101}'), ("wecom", '{"errcode": 45009}'), ("feishu", '{"code": 11232}')],
)
async def test_a_rate_limited_message_is_retried(robots: Chats, form: str, body: str) -> None:
    robots.faults = [answering(200, body)]
    result = await post(getattr(robots, form))
    assert (result.taken, result.retry) == (False, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(robots: Chats, status: int) -> None:
    robots.faults = [answering(status, headers={"Location": robots.slack.removeprefix("slack+")})]
    result = await post(robots.plain)
    assert (result.taken, result.retry) == (False, False)
    assert "not followed" in result.words
    assert len(robots.requests) == 1


async def test_an_endless_answer_is_not_read_to_its_end(robots: Chats) -> None:
    robots.faults = [endless]
    result = await post(robots.dingtalk)
    assert "not an answer of dingtalk" in result.words


async def test_a_receiver_that_never_answers_times_out(robots: Chats) -> None:
    robots.faults = [stalling]
    result = await post(robots.plain, seconds=0.2)
    assert (result.retry, result.words) == (True, "no answer within 0.2 s")


async def test_a_broken_or_refused_connection_is_retried(robots: Chats) -> None:
    robots.faults = [dropping]
    for address in (robots.plain, f"http://127.0.0.1:{free_port()}/{SECRETS[0]}"):
        result = await post(address)
        assert (result.taken, result.retry) == (False, True)
    result = await post(f"https://{robots.host}/{SECRETS[0]}")
    assert "does not speak TLS" in result.words


async def test_a_certificate_that_is_not_trusted_is_refused(robots: Chats) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serve(robots, tls=context) as host:
        result = await post(f"https://{host}/{SECRETS[0]}")
    assert "not trusted" in result.words
    assert robots.requests == []


async def test_a_compressed_answer_is_not_decompressed(robots: Chats) -> None:
    robots.faults = [answering(200, "x", headers={"Content-Encoding": "gzip"})]
    assert not (await post(robots.dingtalk)).taken
    assert robots.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"code": "0"}', b"null", b"[" * 100_000])
@pytest.mark.parametrize("form", [Format.DINGTALK, Format.FEISHU, Format.WECOM])
def test_an_answer_of_another_service_is_no_success(form: Format, body: bytes) -> None:
    assert not interpret(form, 200, body).taken


def test_feishus_older_answer_is_understood() -> None:
    assert interpret(Format.FEISHU, 200, b'{"StatusCode": 0, "StatusMessage": "success"}').taken


async def test_a_user_name_and_password_go_to_their_host(robots: Chats) -> None:
    robots.faults = [answering(204)]
    assert (await post(f"http://user:{SECRETS[0]}@{robots.host}/")).taken
    assert robots.requests[0][1]["Authorization"] == encode_basic_auth("user", SECRETS[0])


def test_a_receiver_shows_only_its_host() -> None:
    (receiver,) = parse_receivers(f"https://user:{SECRETS[0]}@alerts.example.com:8443/{SECRETS[1]}")
    assert isinstance(receiver, Receiver)
    assert receiver.host == "alerts.example.com:8443"


async def test_a_receiver_is_reached_through_the_proxy_of_the_environment(
    robots: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = robots.plain.replace("127.0.0.1", "chat.by-proxy.test")
    known, behind = URL(address), URL(robots.plain)
    names = {f"{known.host}:{known.port}": f"{behind.host}:{behind.port}"}
    async with ForwardProxy(names, login="corp:s3cret").running() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://corp:s3cret@{proxy.host}")
        result = await post(address)
        assert result.taken, result
        monkeypatch.setenv("HTTP_PROXY", f"http://corp:wr0ng@{proxy.host}")
        result = await post(address)
        assert result.retry
        assert f"the proxy {proxy.host} refused" in result.words
        assert "wr0ng" not in result.words
        monkeypatch.setenv("HTTPS_PROXY", f"http://corp:wr0ng@{proxy.host}")
        result = await post(address.replace("http://", "https://"))
        assert result.retry
        assert "refused CONNECT to chat.by-proxy.test" in result.words
        monkeypatch.setenv("NO_PROXY", "by-proxy.test")
        assert "can't be resolved" in (await post(address)).words
    assert len(robots.taken) == 1
