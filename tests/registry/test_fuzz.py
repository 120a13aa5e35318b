"""Fuzzed answers: each is understood or raises a documented error, and none is waited for without a deadline."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.registry.auth import Authorizer
from replicator.registry.blob_checks import check_range
from replicator.registry.connection import Reply
from replicator.registry.connection_errors import from_answer
from replicator.registry.errors import ConnectionFailed, ProtocolViolated, RegistryError
from replicator.registry.manifest import OCI_INDEX, OCI_MANIFEST, parse_manifest, refuse_foreign_type
from replicator.registry.manifests import next_page
from replicator.registry.token_endpoint import Token, TokenEndpoint, lacks_scope, parse_challenges
from replicator.retry import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

DIGEST = "sha256:" + "a" * 64
SIZE = 1000
# As aiohttp returns headers: each byte that is not UTF-8 becomes a lone surrogate.
HEADER = st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "surrogateescape")) | st.text(max_size=300)
TOKENS = st.lists(
    st.sampled_from(
        [
            "Bearer",
            "Basic",
            " ",
            ",",
            "=",
            '"',
            "\\",
            "realm",
            "scope",
            "http://h/t",
            "<",
            ">",
            ";",
            "rel",
            "next",
            "\t",
        ]
    ),
    max_size=60,
).map("".join)
SLOW = settings(deadline=5000)


@SLOW
@given(st.lists(HEADER | TOKENS, max_size=4))
@example(["Bearer " + 'a="\\' * 5000])
@example([", , ," * 5000 + "="])
@example(["a" * 20_000 + " " * 20_000 + "b"])
def test_challenges(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower() != ""
    assert lacks_scope(headers) in (True, False)


@SLOW
@given(
    HEADER | st.from_regex(r"[A-Z][a-z]{2},? [0-9]{1,9}[- ][A-Z][a-z]{2}[- ][0-9]{1,9} [0-9:]{1,30} [-+A-Z0-9]{1,9}")
)
@example("9" * 10_000)
@example("²")
@example("Fri, 31 Dec 9999 23:59:59 -9999")
@example("Sat, 01 Jan 0001 00:00:00 +9999")
def test_retry_after(value: str) -> None:
    seconds = parse_retry_after(value, datetime(2026, 1, 1, tzinfo=UTC))
    assert seconds is None or seconds >= 0


@SLOW
@given(HEADER | TOKENS)
@example('<a>; rel="' + "next " * 20_000)
@example("<a>" + ';a="' * 10_000)
@example("<" * 20_000)
def test_pages(header: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict([("Link", header)]))
    target = next_page(Reply(200, headers, b"", URL("http://h.example.com")))
    assert target is None or target in header


@SLOW
@given(
    HEADER
    | st.tuples(st.integers(), st.integers(), st.integers() | st.just("*")).map(
        lambda numbers: "bytes {}-{}/{}".format(*numbers)
    ),
    st.integers(1, SIZE - 1),
)
@example("bytes " + "0" * 5000 + "1-999/1000", 1)
@example("bytes 1-999/" + "0" * 5000 + "1000", 1)
@example("bytes \u0661-999/1000", 1)
@example("bytes 5-999/1000", 5)
@example("bytes 5-999/*", 5)
def test_content_range(value: str, offset: int) -> None:
    try:
        check_range(value, offset, SIZE)
    except ProtocolViolated as error:
        _check(error)
    else:
        assert value.startswith(f"bytes {offset}-")
        assert value.endswith((f"/{SIZE}", "/*"))


@SLOW
@given(st.binary(max_size=400), st.sampled_from([OCI_INDEX, OCI_MANIFEST, ""]) | HEADER)
@example(b"[" * 200_000, OCI_INDEX)
@example(b'{"manifests":' * 100_000, OCI_INDEX)
@example(b'{"config": {"size": 1e400}}', OCI_MANIFEST)
@example(b"\xef\xbb\xbf{}", OCI_MANIFEST)
@example(b'{"mediaType": NaN}', OCI_MANIFEST)
def test_manifests(content: bytes, content_type: str) -> None:
    for parse in (lambda: parse_manifest(content, content_type, DIGEST), lambda: refuse_foreign_type(content_type)):
        try:
            parse()
        except ValueError as error:
            _check(error)


@SLOW
@given(
    st.integers(200, 599), st.binary(max_size=400) | st.text(max_size=200).map(lambda text: json.dumps(text).encode())
)
@example(400, b'{"errors": {"code": "x"}}')
@example(400, b'{"errors": [{"code": {"a": ["\\ud800"]}, "message": 3, "detail": "\\u001b[2J"}]}')
@example(400, b'{"errors": [' + b"[" * 100_000)
def test_error_bodies(status: int, body: bytes) -> None:
    error = from_answer(status, body).at("h.example.com", "GET /")
    assert str(error).isprintable()
    assert len(str(error)) < 600


def _check(error: Exception) -> None:
    assert str(error).isprintable()


class _Endpoint:
    """A token endpoint with one answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        return self.body

    async def try_basic(self, authorization: str) -> None:
        raise AssertionError("no registry here wants Basic")


@SLOW
@given(
    st.dictionaries(
        st.sampled_from(["token", "access_token", "expires_in"]), st.text() | st.integers() | st.floats() | st.none()
    ).map(lambda document: json.dumps(document).encode())
    | st.binary(max_size=200)
)
@example(b'{"token": "t", "expires_in": ' + b"9" * 4000 + b"}")
@example(b'{"token": "t", "expires_in": 1e999}')
@example(b'{"token": "t", "expires_in": -0.0}')
def test_tokens(body: bytes) -> None:
    authorizer = Authorizer(Access(), _Endpoint(body))
    authorizer.challenged(['Bearer realm="http://h.example.com/t"'], frozenset({"s"}), None)
    try:
        header = asyncio.run(authorizer.header(frozenset({"s"})))
    except RegistryError as error:
        _check(error)
    else:
        assert header is not None
        assert header.isprintable()


@settings(deadline=5000, max_examples=50)
@given(HEADER | TOKENS, HEADER)
@example("http://h.example.com/t", "\udcff")
@example("http://h.example.com/\udcff", "")
@example("http://[::1/t", "")
@example("http://h.example.com:99999/t", "")
def test_realms(realm: str, service: str) -> None:
    async def ask() -> None:
        access = Access("u", "p", endpoint="http://h.example.com")
        async with Registries(lambda _: access) as registries:
            transport = registries.transport(Repository("h.example.com", "a/b"))

            async def nobody(*_: Any, **__: Any) -> Any:
                raise ConnectionFailed("no")

            transport.send = nobody  # type: ignore[method-assign]  # nothing is sent
            transport.timing = type(transport.timing)(attempts=1)
            authorizer = Authorizer(access, TokenEndpoint(transport, access))
            quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (realm, service)]
            authorizer.challenged([f'Bearer realm="{quoted[0]}",service="{quoted[1]}"'], frozenset({"s"}), None)
            await authorizer.header(frozenset({"s"}))

    try:
        asyncio.run(ask())
    except RegistryError as error:
        _check(error)


def test_a_token_that_says_no_life_lives_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("replicator.registry.auth.time.monotonic", lambda: now)
    authorizer = Authorizer(Access(), _Endpoint(b'{"access_token": "t"}'))
    authorizer.challenged(['Bearer realm="http://h.example.com/t"'], frozenset({"s"}), None)
    asyncio.run(authorizer.header(frozenset({"s"})))
    assert authorizer._grant(frozenset({"s"})).token == Token("t", 1000.0, 1060.0)
