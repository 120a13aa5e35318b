"""Answers that are not the registry's, and those of registries that look like such."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

import pytest

from replicator.errors import SENT_LOGINS, ErrorClass
from replicator.reference import Repository
from replicator.registry import Access
from replicator.registry.connection_errors import from_answer, is_page
from replicator.registry.errors import (
    Denied,
    ForeignAnswer,
    LoginRefused,
    NotFound,
    Refused,
    RegistryError,
    ServerFailed,
    StorageRefused,
    TooManyRequests,
    Unauthorized,
)
from replicator.registry.manifest import Descriptor
from replicator.registry.token_endpoint import TokenEndpoint, refusal_words
from tests.registry.conftest import client, served
from tests.registry.guard import PASSWORD, USER
from tests.registry.test_login import guarded, login
from tests.standins.faults import Answer, Fault, Redirect
from tests.standins.images import image, push

if TYPE_CHECKING:
    from aiohttp import web

    from tests.registry.conftest import Server
    from tests.registry.test_login import Guarded
    from tests.standins.server import Handler

__all__ = ["guarded", "login"]

DIGEST = "sha256:" + "0" * 64
HTML = b"<html><head><title>nginx</title></head></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>'


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def answering(answer: Answer) -> Handler:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return answer.response()

    return handle


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"", NotFound),
        (403, b"", Denied),
        (413, b" \r\n", Refused),
        (404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}', NotFound),
        (403, b'{"errors": [{"message": "no"}]}', Denied),
        (404, XML, NotFound),
        (403, b"<Error><Code>AccessDenied</Code></Error>", Denied),
        (404, b"default backend - 404", ForeignAnswer),
        (404, b'{"message": "no Route matched with those values"}', ForeignAnswer),
        (403, HTML, ForeignAnswer),
        (302, HTML, ForeignAnswer),
        (401, HTML, ForeignAnswer),
        (502, HTML, ServerFailed),
        (429, HTML, TooManyRequests),
    ],
)
def test_an_answer_is_the_registry_s_by_the_form_of_its_body(
    status: int, body: bytes, kind: type[RegistryError]
) -> None:
    error = from_answer(status, body)
    assert type(error) is kind
    assert ("not the registry's answer" in error.why) == (body == HTML or kind is ForeignAnswer)


def test_a_proxy_that_asks_for_http_basic_may_do_so_with_a_page() -> None:
    error = from_answer(401, HTML, challenges=True)
    assert (type(error), error.error_class) == (Unauthorized, ErrorClass.CREDENTIALS)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\xef\xbb\xbf\r\n <!DOCTYPE  html><p>", True),
        (b"<!-- a b --><html>", True),
        (b"<HTML>", True),
        (b"<h1>Forbidden</h1>", True),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">', True),
        (b"<center>blocked</center>", True),
        (XML, False),
        (b'{"a": "<html>"}', False),
        (b"", False),
        (b" " * 8_000_000, False),
        (b"<!--" * 100_000, True),
        (b"<title" * 100_000, True),
    ],
    ids=range(12),
)
def test_a_page_is_told_by_its_beginning_in_bounded_time(body: bytes, told: bool) -> None:
    began = time.process_time()
    assert is_page(body) == told
    assert isinstance(from_answer(404, body[: 16 * 1024]), ForeignAnswer) == (told or body.startswith(b"{"))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("charset", ["utf-8", "gbk"])
def test_the_title_of_a_page_is_read_in_the_charsets_of_chinese_firewalls(charset: str) -> None:
    page = "<!DOCTYPE html><title>访问被阻断</title><body>".encode(charset) + "被".encode(charset)[:1]
    assert "(title '访问被阻断')" in from_answer(403, page).why


def test_a_login_is_cut_out_of_a_page_in_no_single_charset() -> None:
    SENT_LOGINS.sent(basic("robot", "päßwort-密码é"))
    page = "<!DOCTYPE html><title>päßwort-密码é".encode() + "被".encode("gbk")
    why = from_answer(403, page).why
    assert "wort-" not in why
    assert "a page of HTML (title '***" in why


async def test_a_head_has_no_words_so_the_source_is_asked_again_and_the_destination_is_not(registry: Server) -> None:
    await push(registry.host, "team/app", "v1", image(1))
    async with client() as registries:
        source = registries.source(Repository(registry.host, "team/app"))
        target = registries.destination(Repository(registry.host, "team/app"))
        for status in (400, 401, 403, 413):
            registry.faults.faults[:] = [Fault(Answer(status, body=HTML), path="/manifests/", times=None)]
            with pytest.raises(ForeignAnswer):
                await source.head_manifest("v1")
            registry.faults.log.clear()
            assert await target.head_destination("v1") is None
            assert [entry.method for entry in registry.faults.log] == ["HEAD"]
        registry.faults.faults.clear()
        registry.faults.log.clear()
        # No lasting harm: HEAD is still the way, which Harbor does not count as a pull.
        assert await source.head_manifest("v1") is not None
        assert [entry.method for entry in registry.faults.log] == ["HEAD"]


async def test_a_page_stands_for_no_blob_and_no_list(registry: Server) -> None:
    async with client() as registries:
        remote = registries.source(Repository(registry.host, "team/app"))
        for status in (200, 404):
            page = Answer(status, body=HTML, headers={"Content-Type": "text/html"})
            registry.faults.faults[:] = [Fault(page, path="/referrers/|/blobs/|/tags/|^/v2/$", times=None)]
            with pytest.raises(ForeignAnswer):
                await remote.referrers(DIGEST)
            with pytest.raises(ForeignAnswer):
                [tag async for tag in remote.tags()]
            with pytest.raises(ForeignAnswer):
                await remote.open_blob(Descriptor("application/octet-stream", DIGEST, 1_000_000))
        registry.faults.faults[:] = [Fault(Answer(200, headers={"Content-Type": "text/html"}), "HEAD", times=None)]
        with pytest.raises(ForeignAnswer):
            await remote.has_blob(DIGEST)
        registry.faults.faults[:] = [Fault(Answer(404, body=HTML), path="/referrers/", times=None)]
        # Some registries answer so to a path that they do not know; it need not stay so.
        assert await remote.referrers(DIGEST) is None
        registry.faults.faults.clear()
        # The real one has no such API, and says so with the text of a server that does not know the path.
        assert remote.abilities.referrers is None
        assert await remote.referrers(DIGEST) is None
        assert remote.abilities.referrers is False


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(Answer(401, body=b"Auth failed."), LoginRefused), (Answer(401, body=HTML), ForeignAnswer)],
    ids=["text", "page"],
)
async def test_a_token_endpoint_may_refuse_with_a_text_but_not_with_a_page(
    guarded: Guarded,
    answer: Answer,
    kind: type[RegistryError],
) -> None:
    fault = guarded.tokens.faults.add(Fault(answer, times=None))
    with pytest.raises(kind):
        await guarded.repository.get_manifest("v1")
    # A page may be a refusal all the same: the password is sent once in an attempt.
    assert fault.hits == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(401, "UNAUTHORIZED", "authentication required"), "it says: UNAUTHORIZED: authentication required"),
        (Answer(403, body=b"Auth failed."), "it says: Auth failed."),
        (Answer(401, body=b"you sent " + PASSWORD.encode()), "it says: you sent ***"),
    ],
    ids=["error", "text", "a text with the password"],
)
async def test_a_refusal_of_a_token_service_says_which_and_whose_login(
    guarded: Guarded, answer: Answer, words: str
) -> None:
    guarded.tokens.faults.add(Fault(answer, times=None))
    with pytest.raises(LoginRefused) as caught:
        await guarded.repository.get_manifest("v1")
    assert caught.value.what == f"{guarded.registry.host}: GET {guarded.tokens.host}/token (token service)"
    assert caught.value.why == f"the login was refused for {USER!r}: {answer.status}, {words}"


async def test_a_name_without_a_password_is_left_out_as_it_may_be_a_secret() -> None:
    assert refusal_words(basic("s3cret-token", "")) == "the login was refused"
    SENT_LOGINS.sent(basic("robot$project+reader", "pass-word"))
    error = LoginRefused(f"{refusal_words(basic('robot$project+reader', 'pass-word'))}: 401 pass-word")
    assert error.why == "the login was refused for 'robot$project+reader': 401 ***"
    assert refusal_words("Basic ===") == refusal_words(None) == refusal_words("Bearer x") == "the login was refused"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(Answer(403, body=XML), StorageRefused), (Answer(403, body=HTML), ForeignAnswer), (Answer(503), ServerFailed)],
    ids=["storage", "page", "failure"],
)
async def test_an_answer_of_the_storage_says_that_it_is_not_the_registry_s(
    registry: Server, answer: Answer, kind: type[RegistryError]
) -> None:
    async with served(answering(answer)) as storage, client() as registries:
        registry.faults.add(Fault(Redirect(f"http://{storage.host}"), "GET", path="/blobs/", times=None))
        remote = registries.source(Repository(registry.host, "team/app"))
        with pytest.raises(kind, match=r"answer of 127\.0\.0\.1, which the registry redirects to") as caught:
            await remote.read_blob(Descriptor("application/octet-stream", DIGEST, 10))
    assert "the registry says" not in caught.value.why
    assert ("not the registry's answer: a page of HTML (title 'nginx')" in caught.value.why) == (answer.body == HTML)


@pytest.mark.parametrize(("answer", "proves"), [(Answer(200, body=b"{}"), True), (Answer(403, body=HTML), False)])
async def test_a_page_does_not_prove_a_login(registry: Server, answer: Answer, proves: bool) -> None:
    registry.faults.add(Fault(answer, path="^/v2/$", times=None))
    async with client() as registries:
        endpoint = TokenEndpoint(registries.transport(Repository(registry.host, "team/app")), Access("a", "b"))
        if proves:
            await endpoint.try_basic("Basic YTpi")
        else:
            with pytest.raises(ForeignAnswer):
                await endpoint.try_basic("Basic YTpi")
