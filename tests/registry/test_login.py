"""Logins: by token and by HTTP Basic, requested as rarely as possible, and sent to nobody else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, Descriptor, RemoteRepository
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    LoginRefused,
    NotFound,
    ProtocolViolated,
    RegistryError,
    StorageRefused,
    TooManyRequests,
    Unauthorized,
    UploadLost,
)
from replicator.registry.manifest import digest_of
from replicator.registry.token_endpoint import Token
from tests.registry.conftest import QUICK, Server, client, served
from tests.registry.guard import BASIC, PASSWORD, USER, Guard, only_basic
from tests.standins.faults import Answer, Cut, CutUpload, Fault, FaultLayer, Redirect
from tests.standins.images import blobs_of, image, push
from tests.standins.proxy import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Guarded:
    """A registry behind a token guard, with its token endpoint on another port."""

    def __init__(self, registry: Server, tokens: Server, guard: Guard, client_side: RemoteRepository) -> None:
        self.registry = registry
        self.tokens = tokens
        self.guard = guard
        self.repository = client_side


@pytest.fixture
def login() -> Access:
    """The login of `guarded`; its endpoint is filled in."""
    return Access(USER, PASSWORD)


@pytest.fixture
async def guarded(registry: Server, login: Access) -> AsyncIterator[Guarded]:
    async with _guarded(registry, login) as made:
        yield made


@asynccontextmanager
async def _guarded(registry: Server, login: Access) -> AsyncIterator[Guarded]:
    async with Upstream(registry.host) as upstream:
        guard = Guard(upstream.forward)
        async with served(guard) as front, served(guard.token) as tokens:
            guard.realm = f"http://{tokens.host}/token?kept=1"
            access = Access(login.username, login.password, endpoint=f"http://{front.host}")
            async with client(access) as registries:
                yield Guarded(front, tokens, guard, registries.destination(Repository(front.host, "team/app")))


async def test_one_challenge_serves_all_requests_that_follow(guarded: Guarded) -> None:
    for _ in range(3):
        assert await guarded.repository.head_manifest("v1") is None
    assert [entry.status for entry in guarded.registry.faults.log] == [401, 404, 404, 404]
    assert guarded.guard.issued == ["repository:team/app:pull,push"]
    asked = guarded.tokens.faults.log.entries[0]
    assert asked.headers["Authorization"] == BASIC
    assert "kept=1" in asked.query
    assert "service=registry," in asked.query.replace("%2C", ",")


async def test_the_password_goes_to_the_token_endpoint_only(guarded: Guarded) -> None:
    await guarded.repository.head_manifest("v1")
    sent = [entry.headers.get("Authorization", "") for entry in guarded.registry.faults.log]
    assert sent[0] == ""
    assert all(value.startswith("Bearer ") for value in sent[1:])


async def test_many_requests_at_once_ask_for_one_token(guarded: Guarded) -> None:
    await asyncio.gather(*(guarded.repository.head_manifest(f"v{number}") for number in range(20)))
    assert len(guarded.guard.issued) == 1
    guarded.guard.revoke()
    await asyncio.gather(*(guarded.repository.head_manifest(f"v{number}") for number in range(20)))
    assert len(guarded.guard.issued) == 2


async def test_a_rejected_token_is_renewed_although_harbor_challenges_with_basic(guarded: Guarded) -> None:
    guarded.guard.basic_after_bearer = True
    await guarded.repository.head_manifest("v1")
    guarded.guard.revoke()
    assert await guarded.repository.head_manifest("v1") is None
    assert len(guarded.guard.issued) == 2
    assert guarded.registry.faults.log.count(status=401) == 2


@pytest.mark.parametrize("key", ["token", "access_token"])
async def test_a_token_may_come_under_either_name_and_without_its_life(guarded: Guarded, key: str) -> None:
    guarded.guard.key = key
    guarded.guard.life = None
    assert await guarded.repository.head_manifest("v1") is None
    assert await guarded.repository.head_manifest("v1") is None
    assert len(guarded.guard.issued) == 1


def test_a_token_is_renewed_before_it_ends_and_earlier_for_a_long_body() -> None:
    token = Token("t", 0.0, 300.0)
    assert token.outlasts(280.0, long=False)
    assert not token.outlasts(290.0, long=False)
    assert token.outlasts(140.0, long=True)
    assert not token.outlasts(160.0, long=True)
    short = Token("t", 0.0, 10.0)
    assert short.outlasts(7.0, long=False)
    assert not short.outlasts(9.0, long=False)


async def test_a_short_lived_token_is_renewed_before_an_upload(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * 1000
    await guarded.repository.start_upload()
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr("replicator.registry.auth.time.monotonic", lambda: now + 200.0)
    location = await guarded.repository.start_upload()
    assert len(guarded.guard.issued) == 1
    assert location is not None
    source = _stream_source(content)
    async with served(source) as server, client() as registries:
        origin = registries.source(Repository(server.host, "a/b"))
        stream = await origin.open_blob(Descriptor("", digest_of(content), len(content)))
        await guarded.repository.finish_upload(location, stream)
        await stream.aclose()
    assert len(guarded.guard.issued) == 2
    assert guarded.registry.faults.log.count("PUT", status=201) == 1


async def test_a_login_refused_in_mid_upload_can_be_retried(guarded: Guarded) -> None:
    content = b"x" * 300_000
    guarded.registry.faults.add(
        Fault(CutUpload(1000, Answer(401, headers={"WWW-Authenticate": 'Basic realm="harbor"'})), method="PUT")
    )
    async with served(_stream_source(content)) as server, client() as registries:
        origin = registries.source(Repository(server.host, "a/b"))
        blob = Descriptor("", digest_of(content), len(content))
        for expected in (UploadLost, None):
            location = await guarded.repository.start_upload()
            assert location is not None
            stream = await origin.open_blob(blob)
            if expected is not None:
                with pytest.raises(expected):
                    await guarded.repository.finish_upload(location, stream)
            else:
                await guarded.repository.finish_upload(location, stream)
            await stream.aclose()
    assert await guarded.repository.has_blob(blob.digest)
    assert len(guarded.guard.issued) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refused_login_is_an_error_at_once(guarded: Guarded, status: int) -> None:
    guarded.tokens.faults.add(Fault(Answer(status, "USER_NOT_EXIST", "no such user"), times=None))
    with pytest.raises(LoginRefused, match="no such user") as caught:
        await guarded.repository.head_manifest("v1")
    assert caught.value.error_class is ErrorClass.CREDENTIALS
    assert len(guarded.tokens.faults.log) == 1
    assert PASSWORD not in str(caught.value)
    assert BASIC.split()[1] not in str(caught.value)


@pytest.mark.parametrize("action", [Answer(503), Answer(429, headers={"Retry-After": "0"}), Cut(None)])
async def test_a_token_endpoint_that_fails_is_retried(guarded: Guarded, action: Answer | Cut) -> None:
    fault = guarded.tokens.faults.add(Fault(action, times=2))
    assert await guarded.repository.head_manifest("v1") is None
    assert fault.hits == 2


async def test_a_token_endpoint_that_asks_for_a_long_pause_leaves_it_to_the_queue(guarded: Guarded) -> None:
    fault = guarded.tokens.faults.add(Fault(Answer(429, headers={"Retry-After": "300"}), times=None))
    async with asyncio.timeout(5):
        with pytest.raises(TooManyRequests) as caught:
            await guarded.repository.head_manifest("v1")
    assert caught.value.retry_after == 300
    assert fault.hits == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", ProtocolViolated),
        (b"[]", ProtocolViolated),
        (b"\xff", ProtocolViolated),
        (b"[" * 60_000, ProtocolViolated),
        (b"{}", LoginRefused),
        (b'{"token": 7}', LoginRefused),
        (b'{"token": "a\\r\\nb: c"}', LoginRefused),
        (b'{"token": "\\u00e9"}', LoginRefused),
    ],
)
async def test_an_answer_without_a_usable_token_is_an_error(
    guarded: Guarded, body: bytes, kind: type[RegistryError]
) -> None:
    guarded.tokens.faults.add(Fault(Answer(200, body=body), times=None))
    with pytest.raises(kind):
        await guarded.repository.head_manifest("v1")


@pytest.mark.parametrize("life", ["true", "1e999", "-1", '"x"', "0", "NaN"])
async def test_an_odd_life_of_a_token_is_survived(guarded: Guarded, life: str) -> None:
    body = f'{{"token": "t", "expires_in": {life}}}'.encode()
    guarded.guard.valid["t"] = ""
    guarded.tokens.faults.add(Fault(Answer(200, body=body), times=None))
    assert await guarded.repository.head_manifest("v1") is None


async def test_a_token_that_hardly_lives_is_not_asked_for_by_each_request(guarded: Guarded) -> None:
    guarded.guard.valid["t"] = ""
    guarded.tokens.faults.add(Fault(Answer(200, body=b'{"token": "t", "expires_in": 0.001}'), times=None))
    await asyncio.gather(*(guarded.repository.head_manifest(f"v{number}") for number in range(20)))
    assert len(guarded.tokens.faults.log) == 1


async def test_a_fresh_token_that_is_not_enough_is_not_asked_for_again(guarded: Guarded) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{guarded.guard.realm}"'}
    guarded.registry.faults.add(Fault(Answer(401, headers=challenge), times=None))
    with pytest.raises(Unauthorized) as caught:
        await guarded.repository.get_manifest("v1")
    assert caught.value.error_class is ErrorClass.CREDENTIALS
    # It may only have been too young.
    assert len(guarded.registry.faults.log) == 3
    assert len(guarded.guard.issued) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_token_that_is_refused_while_it_is_young_is_tried_again_when_it_is_a_second_old(
    guarded: Guarded, times: int
) -> None:
    """As at a Harbor of several cores whose clocks differ; a second refusal is final."""
    challenge = {"WWW-Authenticate": f'Bearer realm="{guarded.guard.realm}"'}
    guarded.registry.faults.add(Fault(Answer(401, headers=challenge)))
    young = Answer(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="harbor"'})
    guarded.registry.faults.add(Fault(young, times=times))
    if times == 1:
        assert await guarded.repository.head_manifest("v1") is None
    else:
        with pytest.raises(Unauthorized):
            await guarded.repository.head_manifest("v1")
    entries = guarded.registry.faults.log.entries
    assert [entry.status for entry in entries] == [401, 401, 404 if times == 1 else 401]
    assert entries[1].headers["Authorization"] == entries[2].headers["Authorization"] == "Bearer token-0"
    assert len(guarded.guard.issued) == 1


@pytest.mark.parametrize("code", ["", "UNAUTHORIZED", "DENIED"])
async def test_a_token_that_allows_too_little_is_denied_at_once(guarded: Guarded, code: str) -> None:
    realm = f'Bearer realm="{guarded.guard.realm}"'
    guarded.registry.faults.add(Fault(Answer(401, headers={"WWW-Authenticate": realm})))
    lacking = {"WWW-Authenticate": f'{realm},error="insufficient_scope"'}
    guarded.registry.faults.add(Fault(Answer(401, code, headers=lacking), times=None))
    with pytest.raises(Denied, match="does not allow"):
        await guarded.repository.get_manifest("v1")
    assert len(guarded.registry.faults.log) == 2


@pytest.mark.parametrize(
    "realm", ["http://[", "ftp://h.example.com/token", "/token", "", "http://", "http://h.example.com:99999/"]
)
async def test_a_realm_that_is_no_url_is_a_registrys_error(guarded: Guarded, realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    guarded.registry.faults.add(Fault(Answer(401, headers=challenge), times=None))
    with pytest.raises(RegistryError):
        await guarded.repository.get_manifest("v1")
    assert not guarded.guard.issued


async def test_http_basic_is_used_where_it_is_asked_for(registry: Server) -> None:
    async with Upstream(registry.host) as upstream, served(partial(only_basic, handler=upstream.forward)) as front:
        access = Access(USER, PASSWORD, endpoint=f"http://{front.host}")
        async with client(access) as registries:
            repository = registries.destination(Repository(front.host, "team/app"))
            for _ in range(2):
                assert await repository.head_manifest("v1") is None
        assert [entry.status for entry in front.faults.log] == [401, 404, 404]
        wrong = Access(USER, "wrong", endpoint=f"http://{front.host}")
        front.faults.log.clear()
        async with client(wrong) as registries:
            with pytest.raises(Unauthorized):
                await registries.source(Repository(front.host, "team/app")).head_manifest("v1")
        assert len(front.faults.log) == 2


async def test_without_a_login_an_anonymous_token_is_requested(registry: Server) -> None:
    async with _guarded(registry, Access()) as guarded:
        guarded.guard.anonymous = True
        assert await guarded.repository.head_manifest("v1") is None
        assert "Authorization" not in guarded.tokens.faults.log.entries[0].headers


async def test_a_redirect_to_another_host_carries_no_login_and_is_told_none(guarded: Guarded) -> None:
    root = image(1, [1000])
    blob = blobs_of(root)[1]
    guarded.registry.faults.log.clear()
    asked = await _push_behind(guarded, root)
    async with Upstream(asked) as upstream, served(upstream.forward) as storage:
        guarded.registry.faults.add(Fault(Redirect(f"http://{storage.host}"), method="GET", path="/blobs/", after=1))
        stream = await guarded.repository.open_blob(Descriptor("", blob.digest, blob.size))
        assert b"".join([chunk async for chunk in stream]) == blob.read()
        await stream.aclose()
        assert [entry.headers.get("Authorization") for entry in storage.faults.log] == [None]


async def test_a_challenge_from_where_a_redirect_led_gets_no_password(guarded: Guarded) -> None:
    async with served(_nothing) as thief:
        realm = f'Bearer realm="http://{thief.host}/token"'
        thief.faults.add(Fault(Answer(401, headers={"WWW-Authenticate": realm}), path="/blobs/", times=None))
        guarded.registry.faults.add(
            Fault(Redirect(f"http://{thief.host}"), method="GET", path="/blobs/", after=1, times=None)
        )
        with pytest.raises(StorageRefused):
            await guarded.repository.open_blob(Descriptor("", digest_of(b"x"), 1))
        assert thief.faults.log.count(path="/token") == 0
        assert all("Authorization" not in entry.headers for entry in thief.faults.log)


async def test_a_token_endpoint_that_never_answers_meets_a_deadline(guarded: Guarded) -> None:
    guarded.tokens.faults.add(Fault(CutUpload(0, "stall"), times=None))
    with pytest.raises(ConnectionFailed, match="answer"):
        await guarded.repository.head_manifest("v1")
    assert len(guarded.tokens.faults.log) <= QUICK.attempts**2


async def _push_behind(guarded: Guarded, root: object) -> str:
    """Push an image past the guard and return the address behind it."""
    handler = guarded.guard.handler
    upstream = getattr(handler, "__self__")  # noqa: B009 - a bound method's owner has no typed name
    assert isinstance(upstream, Upstream)
    await push(upstream.host, "team/app", "v1", root)  # type: ignore[arg-type]  # any image
    return upstream.host


def _stream_source(content: bytes) -> FaultLayer:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=content)

    return FaultLayer(answer)


async def _nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


async def test_tokens_are_asked_for_by_repository(guarded: Guarded) -> None:
    with pytest.raises(NotFound):
        await guarded.repository.get_manifest("v1")
    await guarded.repository.start_upload(digest_of(b"x"), "other/app")
    assert guarded.guard.issued == [
        "repository:team/app:pull,push",
        "repository:other/app:pull repository:team/app:pull,push",
    ]
